#!/bin/sh
# Renew the locked requirements: every package with its version and hashes, and no word of where it was downloaded from.
# Needs uv (in .venv/bin or on PATH). Options are passed on: `scripts/lock.sh --upgrade`.
set -eu
cd "$(dirname "$0")/.."
uv=.venv/bin/uv
[ -x "$uv" ] || uv=uv

compile() {
    target=$1
    shift
    "$uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url \
        --no-emit-find-links --no-annotate --output-file "requirements/$target" "$@"
    if grep -nE '://|^-|^ *--(index|extra|find)' "requirements/$target"; then
        echo "requirements/$target names a place (above); it must name packages only" >&2
        exit 1
    fi
}

compile build.txt "$@" requirements/build.in
compile node.txt "$@" requirements/node.in
compile run.txt "$@" pyproject.toml
compile dev.txt "$@" --extra aws --extra dashboard --extra fast --extra identity --extra jwt --extra keyring \
    --extra postgres --extra rabbitmq --extra redis --extra sms --extra storage --group dev pyproject.toml
