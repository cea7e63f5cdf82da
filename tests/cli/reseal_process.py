"""Encrypts anew what older keys hold, slowly, and says so after each batch: ``python … URL``; to be killed."""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a script, it finds its own folder alone

from moorline.secrets.rings import encryption_ring
from moorline.store import Store
from moorline.store.encrypted import Resealed, all_encrypted, reseal
from moorline.store.steps import perform_sync


def told(done: Resealed) -> None:
    """After the commit of each batch."""
    sys.stdout.write(f"{done.changed}\n")
    sys.stdout.flush()
    time.sleep(0.05)


if __name__ == "__main__":
    with Store(sys.argv[1]) as store:
        for one in all_encrypted():
            perform_sync(store, reseal(one, encryption_ring(), told))
