#!/bin/sh
# Make .venv/ and install moorline with its locked dependencies into it.
#
#   scripts/bootstrap.sh run     what the program needs
#   scripts/bootstrap.sh dev     and what its tests and checks need
#
# Needs Python 3.11 or newer. Where Python comes without venv (Debian splits it off), it is installed by apt-get when we may.
# A stamp makes the second run immediate.
set -eu
cd "$(dirname "$0")/.."

profile=${1:-run}
say() { printf '%s\n' "== $*" >&2; }
fail() { printf '%s\n' "error: $*" >&2; exit 1; }
case $profile in run | dev) ;; *) fail "unknown profile '$profile'; use run or dev" ;; esac

checksum=$(cat pyproject.toml requirements/build.txt requirements/run.txt requirements/dev.txt scripts/bootstrap.sh | cksum)
for stamp in ".venv/.installed-$profile" .venv/.installed-dev; do
    if [ -x .venv/bin/moorline ] && [ "$(cat "$stamp" 2>/dev/null)" = "$checksum" ] && .venv/bin/python -c '' 2>/dev/null; then
        exit 0
    fi
done

modern='import sys; sys.exit(sys.version_info < (3, 11))'
if [ -x .venv/bin/python ] && .venv/bin/python -c "$modern" 2>/dev/null && .venv/bin/python -m pip --version >/dev/null 2>&1; then
    say "updating .venv ($profile)"
else
    python=''
    for candidate in python3 python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null 2>&1 && "$candidate" -c "$modern"; then
            python=$candidate
            break
        fi
    done
    [ -n "$python" ] || fail "Python 3.11 or newer is needed, as python3 on PATH"
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        say "$python has no venv module: installing python3-venv"
        scripts/apt-install.sh python3-venv ||
            fail "$python cannot make a virtual environment. Install its venv package (Debian: apt-get install python3-venv) and run this again"
    fi
    say "making .venv with $("$python" --version)"
    rm -rf .venv
    "$python" -m venv .venv
fi

# Hashes are checked because every requirement has them; nothing may be resolved here that was not locked. Without --no-deps
# pip 23 takes the newest of what one package wants with an extra (coverage[toml]), not the locked one, and then refuses it.
pip() { .venv/bin/python -m pip --disable-pip-version-check --no-input "$@"; }
say "installing locked dependencies ($profile); the first time takes a minute or two"
pip install --quiet --no-deps --require-hashes -r requirements/build.txt -r "requirements/$profile.txt"
pip install --quiet --no-deps --no-build-isolation --editable .
rm -f .venv/.installed-run .venv/.installed-dev
printf '%s\n' "$checksum" >".venv/.installed-$profile"
