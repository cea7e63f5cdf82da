"""Writes the pages that are made from the code: errors, outcomes, settings, commands, services, the pipeline's picture.

``python scripts/docs.py`` writes docs/reference/ and docs/services/; ``--check`` exits 1 and names the pages that are
not current.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from brokers import brokers_page
from outcomes import outcomes_page
from pipeline import picture
from senders import senders_page
from service_pages import index_page, service_pages
from speed import curves, speed_page

FOLDER = Path(__file__).resolve().parents[1] / "docs"
MADE = "<!-- Made from the code by `make docs`; edit the code. -->\n\n"


def errors_page() -> str:
    """The tree, then each error with what it says of itself."""
    from moorline import errors

    tree = inspect.getdoc(errors) or ""
    drawing = textwrap.dedent(tree.split("::\n", 1)[1].split("\n\nA CallError", 1)[0]).strip()
    lines = ["# Errors", "", "All are in `moorline.errors`.", "", "```text", drawing, "```", ""]
    lines += ["| error | fault | outcome | retryable | what it says |", "| --- | --- | --- | --- | --- |"]
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, errors.MoorlineError):
            facts: tuple[object, ...] = ("", "", "")
            if issubclass(kind, errors.CallError):
                facts = (kind.fault, kind.default_outcome, kind.default_retryable)
            shown = ["yes" if fact is True else "no" if fact is False else str(fact) for fact in facts]
            lines.append(f"| `{name}` | {' | '.join(shown)} | {_sentence(kind)} |")
    return "\n".join(lines) + "\n\nOutcome and retryable are the defaults; each error carries those of its own call.\n"


def settings_page() -> str:
    """Each key with its type, its default and what it is for."""
    from moorline import settings

    lines = ["# Settings", "", "In `moorline.toml` beside the program, or in the environment, which wins.", ""]
    lines += ["| key | environment | default | what it is |", "| --- | --- | --- | --- |"]
    for key, field, said in _keys(settings.Settings, ()):
        lines.append(f"| `{key}` | `MOORLINE_{key.upper().replace('.', '__')}` | `{field!r}` | {said} |")
    return "\n".join(lines) + "\n"


def _keys(model: Any, above: tuple[str, ...]) -> Iterator[tuple[str, Any, str]]:
    from typing import get_args

    from pydantic import BaseModel

    said = _said(model)
    for name, field in model.model_fields.items():
        place = (*above, name)
        named = [one for one in get_args(field.annotation) if isinstance(one, type) and issubclass(one, BaseModel)]
        if named:  # such as dict[str, ServiceSettings]
            yield from _keys(named[0], (*place, "NAME"))
        elif isinstance(field.default, BaseModel):
            yield from _keys(type(field.default), place)
        else:
            yield ".".join(place), field.default, said.get(name, "")


def _said(model: type) -> dict[str, str]:
    """The strings that stand below the fields; Python keeps them nowhere but in the source."""
    import ast

    body = ast.parse(textwrap.dedent(inspect.getsource(model))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, below in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            assert isinstance(field.target, ast.Name)
            found[field.target.id] = " ".join(str(below.value.value).split())
    return found


def commands_page() -> str:
    """What ``--help`` says, for each command."""
    import os

    os.environ.update(COLUMNS="100", TERM="dumb", NO_COLOR="1")
    from typer.main import get_command
    from typer.testing import CliRunner

    from moorline.cli.root import cli

    lines = ["# Commands", "", "Exit codes: 0 fine, 1 failed, 2 misused. What prints data takes `--json`.", ""]
    root: Any = get_command(cli)
    for words in [(), *_commands(root, ())]:
        shown = CliRunner().invoke(cli, [*words, "--help"], prog_name="moorline").output
        said = "\n".join(line.rstrip() for line in shown.strip().splitlines())
        lines += [f"## moorline {' '.join(words)}".rstrip(), "", "```text", said, "```", ""]
    return "\n".join(lines)


def _commands(group: Any, above: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*above, name)
        if hasattr(command, "commands"):
            yield from _commands(command, (*above, name))


def _sentence(thing: object) -> str:
    paragraph = (inspect.getdoc(thing) or "").split("\n\n", 1)[0]
    return " ".join(paragraph.split()).replace("|", "\\|")


PAGES = {
    "errors.md": errors_page,
    "outcomes.md": outcomes_page,
    "settings.md": settings_page,
    "commands.md": commands_page,
    "services.md": index_page,
    "senders.md": senders_page,
    "brokers.md": brokers_page,
    "speed.md": speed_page,
}


def main() -> int:
    """Write the pages, or say which are not current."""
    pages = {f"reference/{name}": MADE + make() for name, make in PAGES.items()}
    pages |= {"reference/pipeline.svg": picture(), "reference/speed.svg": curves()}
    pages |= {f"services/{name}": MADE + text for name, text in service_pages().items()}
    if "--check" in sys.argv[1:]:
        old = [name for name, text in pages.items() if not _is(FOLDER / name, text)]
        old += [
            f"services/{one.name}" for one in (FOLDER / "services").glob("*.md") if f"services/{one.name}" not in pages
        ]
        for name in old:
            print(f"docs/{name} is not what the code says: run `make docs`", file=sys.stderr)
        return 1 if old else 0
    for name, text in pages.items():
        (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(f"docs/{name}")
    return 0


def _is(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    sys.exit(main())
