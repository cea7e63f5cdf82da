"""A process that keeps asking for the token of a connection, until it is killed: ``python … URL KEY ID PROVIDER``.

Each token that it got is a line on standard output; so is what went wrong.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a script, it finds its own folder alone

from tests.identity.conftest import Provider

from moorline.calls.guards import Guards
from moorline.errors import MoorlineError
from moorline.identity import refreshing
from moorline.identity.vault import Vault
from moorline.policies.policy import Policy
from moorline.secrets.keyring import KeyRing
from moorline.secrets.secret import Secret
from moorline.store import Store

if __name__ == "__main__":
    url, key, connection, address = sys.argv[1:]
    refreshing._LEASE = 1.0  # type: ignore[misc]  # others need not wait long for one that was killed
    provider = Provider("k", base_url=address, guards=Guards(), policy=Policy(retry=None, breaker=None))
    with Store(url) as store:
        fresh = refreshing.FreshToken(Vault(store, KeyRing([Secret(key)])), connection, provider.refreshed)
        while True:
            try:
                fresh.ready()
            except MoorlineError as error:
                sys.stdout.write(f"{type(error).__name__}: {error}\n")
            else:
                sys.stdout.write(f"{fresh.current().reveal()}\n")
            sys.stdout.flush()
            time.sleep(0.01)
