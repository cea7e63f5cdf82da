#!/bin/sh
# Install the servers that the tests start for themselves, where they are missing: Redis, RabbitMQ and PostgreSQL; and
# `ip`, with which they make machines of their own.
#
# Only the programs are wanted: no cluster is made and no service started. When we may not install, say so and go on; the
# tests then leave out what needs the server (and in CI, fail).
set -eu
cd "$(dirname "$0")/.."

if ! command -v redis-server >/dev/null 2>&1; then
    echo "== installing Redis for the tests (they start it for themselves)" >&2
    RUNLEVEL=1 scripts/apt-install.sh redis-server || {
        echo "== Redis is missing; the tests that need it will be left out" >&2
        [ "${CI:-}" != true ] || exit 1
    }
fi
if ! command -v rabbitmq-server >/dev/null 2>&1; then
    echo "== installing RabbitMQ for the tests (they start it for themselves)" >&2
    RUNLEVEL=1 scripts/apt-install.sh rabbitmq-server || {
        echo "== RabbitMQ is missing; the tests that need it will be left out" >&2
        [ "${CI:-}" != true ] || exit 1
    }
fi
if ! command -v ip >/dev/null 2>&1; then
    echo "== installing iproute2 for the tests (they make network namespaces)" >&2
    scripts/apt-install.sh iproute2 || {
        echo "== ip is missing; the tests that need it will be left out" >&2
        [ "${CI:-}" != true ] || exit 1
    }
fi
if command -v initdb >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then
    exit 0
fi
echo "== installing PostgreSQL for the tests (no cluster, no service)" >&2
drop_in=/etc/postgresql-common/createcluster.d/moorline-tests.conf
made_drop_in=''
if [ "$(id -u)" -eq 0 ]; then
    mkdir -p "$(dirname "$drop_in")"
    echo 'create_main_cluster = false' >"$drop_in"
    made_drop_in=yes
fi
status=0
scripts/apt-install.sh postgresql || status=$?
[ -z "$made_drop_in" ] || rm -f "$drop_in"
if [ "$status" -ne 0 ]; then
    echo "== PostgreSQL is missing; the tests that need it will be left out" >&2
    [ "${CI:-}" != true ] || exit 1
fi
