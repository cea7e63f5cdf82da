#!/bin/sh
# Install Debian packages if we are allowed to: as root, or through sudo. Exit code 1, with a word, if not.
set -eu

if ! command -v apt-get >/dev/null 2>&1; then
    echo "there is no apt-get here; install by hand: $*" >&2
    exit 1
fi
as_root=''
if [ "$(id -u)" -ne 0 ]; then
    # sudo may ask for a password only where somebody can type one.
    if command -v sudo >/dev/null 2>&1 && { sudo -n true 2>/dev/null || [ -t 0 ]; }; then
        as_root=sudo
    else
        echo "not root, and no sudo; install by hand: apt-get install $*" >&2
        exit 1
    fi
fi
apt() { $as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -o DPkg::Lock::Timeout=120 "$@" >/dev/null; }
install() { apt install --yes --no-install-recommends "$@"; }
# The lists may be missing (a fresh container) or old; only then fetch them.
install "$@" 2>/dev/null || { apt update && install "$@"; }
