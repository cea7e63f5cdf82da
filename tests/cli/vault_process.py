"""A process that keeps tokens and reads others' without end, as an application does: ``python … URL NAME``.

Its keys are in the environment. Each token that it kept is a line on standard output: ``kept ACCOUNT TOKEN``; what went
wrong is another, and so is ``read`` when it has read a row that another process wrote last.
"""

from __future__ import annotations

import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # run as a script, it finds its own folder alone

from moorline.errors import MoorlineError
from moorline.identity.connection import Granted, Tokens
from moorline.identity.vault import Vault
from moorline.secrets.rings import encryption_ring
from moorline.secrets.secret import Secret
from moorline.store import Store

ACCOUNTS = 12

if __name__ == "__main__":
    url, name = sys.argv[1:]
    with Store(url) as store:
        vault = Vault(store, encryption_ring())
        number = 0
        sys.stdout.write("started\n")
        while True:
            number += 1
            account = str(random.randrange(ACCOUNTS))
            token = f"{name}-{time.time_ns()}-canary"
            try:
                vault.keep_sync(name, "provider", Granted(Tokens(Secret(token)), None), account=account)
                sys.stdout.write(f"kept {name}/{account} {token}\n")
                found = random.choice(vault.connections_sync())
                vault.tokens(found)
                sys.stdout.write("read\n" if found.owner != name else "")
            except MoorlineError as error:
                sys.stdout.write(f"failed {type(error).__name__}: {error}\n")
            sys.stdout.flush()
            time.sleep(0.002)
