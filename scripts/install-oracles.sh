#!/bin/sh
# Install the programs of others that only the last of the tests ask: from npm Firebase's emulator, Sentry's Spotlight,
# fauxqs, a second opinion on SQS, and oidc-provider, a certified OpenID provider; from Debian a browser.
#
# They go into .oracles/ with the locked versions and hashes; Node itself comes from pip where there is none. It takes a
# minute, and `make test` does it beside the tests; .oracles/.installing says that it is under way. A stamp makes the
# second run immediate. When it fails the tests leave out what needs them (and in CI, fail).
set -eu
cd "$(dirname "$0")/.."

here=.oracles
stamp=$here/.installed
checksum=$(cat tests/oracles/package-lock.json requirements/node.txt scripts/install-oracles.sh | cksum)
if [ "$(cat "$stamp" 2>/dev/null)" = "$checksum" ]; then
    exit 0
fi
mkdir -p "$here"
rm -f "$stamp"
touch "$here/.installing"
trap 'rm -f "$here/.installing"' EXIT

echo "== installing programs that the tests ask into $here/ (beside whatever else runs; a minute or two)" >&2
if ! command -v node >/dev/null 2>&1 || ! command -v npm >/dev/null 2>&1; then
    python3 -m venv "$here/venv"
    "$here/venv/bin/python" -m pip --disable-pip-version-check --no-input install --quiet --no-deps --require-hashes \
        -r requirements/node.txt
    PATH=$PWD/$here/venv/bin:$PATH
fi
cp tests/oracles/package.json tests/oracles/package-lock.json "$here/"
if ! command -v chromium >/dev/null 2>&1 && ! scripts/apt-install.sh chromium; then
    echo "== Chromium is missing; the tests that need it will be left out" >&2
    [ "${CI:-}" != true ] || exit 1
fi
if nice -n 10 npm ci --prefix "$here" --ignore-scripts --no-audit --no-fund --silent; then
    printf '%s\n' "$checksum" >"$stamp"
else
    echo "== they cannot be installed; the tests that need them will be left out" >&2
    [ "${CI:-}" != true ] || exit 1
fi
