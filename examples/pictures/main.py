"""Pictures of a shop: thumbnails are made in processes, with progress, and a contact sheet when all are done.

In this folder, with Pillow installed, and the project's ``.venv/bin`` on the path::

    moorline worker main:moor &
    python main.py some/folder/*.jpg

prints how far it is, and where the contact sheet is in the end. The worker may be killed in between: nothing is lost,
and no picture is made twice that was done.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from PIL import Image, ImageOps

from moorline import Moorline
from moorline.jobs import RESULT, Discard, current
from moorline.jobs.following import GroupHandle

moor = Moorline()

WIDTHS = (1600, 800, 200)
LARGEST = 100_000_000  # pixels: a small file may unpack to more than a machine has memory for
Image.MAX_IMAGE_PIXELS = LARGEST


@moor.job(process=True, timeout=120, retries=2, keep_result=True)
def resize(picture: str) -> str | Discard:
    """Several widths of a picture beside it; the path of the smallest. What is no picture goes to the dead letters."""
    source = Path(picture)
    try:
        with Image.open(source) as opened:
            upright = ImageOps.exif_transpose(opened).convert("RGB")
    except (Image.DecompressionBombError, Image.UnidentifiedImageError) as error:
        return Discard(f"{source.name}: {error}")
    for done, width in enumerate(WIDTHS, start=1):
        made = ImageOps.contain(upright, (width, width * 4))
        target = _beside(source, width)
        unfinished = target.with_suffix(".part")
        made.save(unfinished, "WEBP", quality=80)
        unfinished.replace(target)  # whole, or not at all: this may run twice
        current().progress(done, of=len(WIDTHS), message=f"{width} pixels")
    return str(_beside(source, WIDTHS[-1]))


@moor.job(process=True, timeout=120, keep_result=True)
def contact_sheet(thumbnails: list[str | None], target: str) -> str:
    """All of them on one page."""
    pictures = [one for one in thumbnails if one is not None]
    side = WIDTHS[-1]
    columns = min(len(pictures), 4) or 1
    sheet = Image.new("RGB", (columns * side, -(-len(pictures) // columns) * side or side), "white")
    for place, picture in enumerate(pictures):
        with Image.open(picture) as opened:
            sheet.paste(ImageOps.contain(opened, (side, side)), (place % columns * side, place // columns * side))
        current().progress(place + 1, of=len(pictures))
    sheet.save(target)
    return target


def _beside(source: Path, width: int) -> Path:
    return source.with_name(f"{source.stem}-{width}.webp")


async def publish(pictures: list[str], target: str) -> GroupHandle:
    """Resize all, side by side; then the sheet."""
    return await moor.group([resize.call(one) for one in pictures], then=contact_sheet.call(RESULT, target))


async def main(pictures: list[str]) -> None:
    """Enqueue, and tell how far it is."""
    async with moor:
        group = await publish(pictures, "contact-sheet.png")
        assert group.then is not None
        finished = False
        while not finished:
            state = await group.state()
            said = [await job.progress() for job in group.jobs]
            part = sum(0.0 if one is None else one.done for one in said) / len(said)
            print(f"\r{state.left} of {state.total} pictures, {part:.0%}", end="", flush=True)
            finished = state.finished_at is not None
            await asyncio.sleep(0.2)
        print(f"\n{await group.then.result(timeout=120)}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
