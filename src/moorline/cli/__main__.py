"""``python -m moorline.cli``: the same as ``moorline``."""

from moorline.cli import main

main()
