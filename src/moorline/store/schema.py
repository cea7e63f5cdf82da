"""The tables. Times are seconds since the epoch; every index says which rule it serves.

A change here goes with a new file in ``migrations/versions`` and a new ``REVISION``; a test holds the two together.
"""

from __future__ import annotations

import sqlalchemy as sa

__all__ = [
    "REVISION",
    "audit",
    "connections",
    "event_counts",
    "events",
    "identities",
    "job_errors",
    "job_group_members",
    "job_groups",
    "job_limits",
    "job_notes",
    "job_permits",
    "job_windows",
    "jobs",
    "key_names",
    "key_rotations",
    "key_uses",
    "key_versions",
    "meta",
    "metadata",
    "rejected",
    "replays",
    "secrets",
    "spent",
    "workers",
]

REVISION = "0010"
"""The newest migration; ``Store.check`` compares it without loading Alembic."""

metadata = sa.MetaData()

# Byte order, not the database's language: ids are hex, and PostgreSQL compares bytes several times faster.
Id = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")

events = sa.Table(
    "events",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("service", sa.Text, nullable=False),
    sa.Column("delivery_key", sa.Text, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("action", sa.Text),
    sa.Column("received_at", sa.Double, nullable=False),
    sa.Column("signed_at", sa.Double),
    sa.Column("secret_index", sa.Integer, nullable=False, server_default="0"),
    sa.Column("headers", sa.Text, nullable=False),
    sa.Column("body", sa.LargeBinary, nullable=False),
    sa.Column("duplicates", sa.Integer, nullable=False, server_default="0"),
    # The sender's id, where the delivery key is something else: a digest, because the id is not signed.
    sa.Column("sender_id", sa.Text),
    # What the secret is called that had signed it.
    sa.Column("secret", sa.Text),
    # Of the body: NULL as it came, "zstd", or "pruned" when only the key is kept.
    sa.Column("encoding", sa.Text),
    # An event is stored once: a second delivery of the same key is a duplicate.
    sa.Index("events_delivery", "service", "delivery_key", unique=True),
)

_HAS_SENDER_ID = sa.text("sender_id IS NOT NULL")
# Finding an event by the id that its sender shows.
sa.Index("events_sender", events.c.sender_id, sqlite_where=_HAS_SENDER_ID, postgresql_where=_HAS_SENDER_ID)

jobs = sa.Table(
    "jobs",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("queue", sa.Text, nullable=False),
    sa.Column("priority", sa.SmallInteger, nullable=False),
    sa.Column("payload", sa.LargeBinary, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("run_at", sa.Double, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
    sa.Column("max_attempts", sa.Integer, nullable=False),
    sa.Column("deliveries", sa.Integer, nullable=False, server_default="0"),
    sa.Column("crashes", sa.Integer, nullable=False, server_default="0"),
    sa.Column("snoozes", sa.Integer, nullable=False, server_default="0"),
    sa.Column("worker", Id),
    sa.Column("event_id", Id),
    sa.Column("unique_key", sa.Text),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("started_at", sa.Double),
    sa.Column("finished_at", sa.Double),
    sa.Column("last_error", sa.Text),
    sa.Column("reason", sa.Text),
    # Jobs of one key run one after the other, in the order of their ids.
    sa.Column("order_key", sa.Text),
    # Until when the job is the only one that was made of its unique key; as it was asked for, see job_windows.
    sa.Column("unique_until", sa.Double),
    # How often in a row it was put off by others than its own function.
    sa.Column("postponed", sa.Integer, nullable=False, server_default="0"),
)

_READY = sa.text("state = 'ready' AND crashes = 0")
_SUSPECT = sa.text("state = 'ready' AND crashes > 0")
_RUNNING = sa.text("state = 'running'")
_ENDED = sa.text("state IN ('done', 'cancelled')")
_DEAD = sa.text("state = 'dead'")
_OUTBOX = sa.text("state = 'outbox'")
_ALIVE = sa.text("unique_key IS NOT NULL AND state IN ('ready', 'running')")

# Claiming: the due jobs of a queue and priority, oldest first, without passing those that wait for a later time.
sa.Index(
    "jobs_ready", jobs.c.queue, jobs.c.priority, jobs.c.run_at, jobs.c.id, sqlite_where=_READY, postgresql_where=_READY
)
# Claiming alone: jobs that were running when a worker died.
sa.Index("jobs_suspect", jobs.c.queue, jobs.c.run_at, sqlite_where=_SUSPECT, postgresql_where=_SUSPECT)
# Rescue: what is running, and by whom.
sa.Index("jobs_running", jobs.c.worker, sqlite_where=_RUNNING, postgresql_where=_RUNNING)
# A unique key has one job that waits or runs.
sa.Index("jobs_unique", jobs.c.unique_key, unique=True, sqlite_where=_ALIVE, postgresql_where=_ALIVE)
# Pruning what has ended, oldest first.
sa.Index("jobs_ended", jobs.c.finished_at, sqlite_where=_ENDED, postgresql_where=_ENDED)
# Reading the dead letters, newest first.
sa.Index("jobs_dead", jobs.c.id, sqlite_where=_DEAD, postgresql_where=_DEAD)
# Relaying what is to go to another broker, oldest first.
sa.Index("jobs_outbox", jobs.c.id, sqlite_where=_OUTBOX, postgresql_where=_OUTBOX)
# From an event to what was made of it; few jobs have one.
_OF_EVENT = sa.text("event_id IS NOT NULL")
sa.Index("jobs_of_event", jobs.c.event_id, sqlite_where=_OF_EVENT, postgresql_where=_OF_EVENT)
# Whose turn it is among the jobs of a key.
_ORDERED = sa.text("order_key IS NOT NULL AND state IN ('ready', 'running', 'blocked', 'dead')")
sa.Index("jobs_ordered", jobs.c.order_key, jobs.c.id, sqlite_where=_ORDERED, postgresql_where=_ORDERED)

# Which job is the only one of its unique key, until when, whatever has become of it: it may be pruned long before.
job_windows = sa.Table(
    "job_windows",
    metadata,
    sa.Column("unique_key", sa.Text, primary_key=True),
    sa.Column("job_id", Id, nullable=False),
    sa.Column("until", sa.Double, nullable=False),
    # Forgetting those that are over, oldest first.
    sa.Index("job_windows_until", "until"),
)

job_errors = sa.Table(
    "job_errors",
    metadata,
    # 64 bits on PostgreSQL; SQLite's own rowid needs exactly INTEGER.
    sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True, autoincrement=True),
    sa.Column("job_id", Id, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("type", sa.Text, nullable=False),
    sa.Column("message", sa.Text, nullable=False),
    sa.Column("traceback", sa.Text, nullable=False),
    # The last errors of one job, and keeping only those.
    sa.Index("job_errors_job", "job_id", "id"),
)

# How far a job is, what it came to, and that it is asked to stop; apart from the job, which is claimed and finished by
# the thousand, and kept longer where the job itself is on a carrier.
job_notes = sa.Table(
    "job_notes",
    metadata,
    sa.Column("job_id", Id, primary_key=True),
    sa.Column("deliveries", sa.Integer, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("done", sa.Double),
    sa.Column("message", sa.Text),
    sa.Column("result", sa.LargeBinary),
    sa.Column("stop", sa.Text),
    sa.Column("stop_deliveries", sa.Integer, nullable=False, server_default="0"),
    # Pruning, oldest first.
    sa.Index("job_notes_at", "at"),
)

# Jobs that something follows when all of them have ended.
job_groups = sa.Table(
    "job_groups",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("total", sa.Integer, nullable=False),
    sa.Column("pending", sa.Integer, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("finished_at", sa.Double),
    # The jobs that follow, one after the other, in JSON.
    sa.Column("follows", sa.LargeBinary),
)
_FINISHED = sa.text("finished_at IS NOT NULL")
# Pruning what has ended, oldest first.
sa.Index("job_groups_ended", job_groups.c.finished_at, sqlite_where=_FINISHED, postgresql_where=_FINISHED)

job_group_members = sa.Table(
    "job_group_members",
    metadata,
    sa.Column("group_id", Id, primary_key=True),
    sa.Column("job_id", Id, primary_key=True),
    sa.Column("place", sa.Integer, nullable=False),
    sa.Column("left_at", sa.Double),
    sa.Column("result", sa.LargeBinary),
)

# When the next job under a limit would begin, if all began evenly.
job_limits = sa.Table(
    "job_limits",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("next_at", sa.Double, nullable=False),
)

# How many jobs under a limit a worker runs; it answers for them until a time that it keeps moving.
job_permits = sa.Table(
    "job_permits",
    metadata,
    sa.Column("limit_id", sa.Text, primary_key=True),
    sa.Column("worker", Id, primary_key=True),
    sa.Column("held", sa.Integer, nullable=False),
    sa.Column("until", sa.Double, nullable=False),
    # Keeping those of a worker.
    sa.Index("job_permits_worker", "worker"),
)

workers = sa.Table(
    "workers",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("queues", sa.Text, nullable=False),
    sa.Column("started_at", sa.Double, nullable=False),
    sa.Column("lease_until", sa.Double, nullable=False),
)

# The last requests that were refused, so that a signature can be debugged: a ring for each service.
rejected = sa.Table(
    "rejected",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("service", sa.Text, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("status", sa.Integer, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("method", sa.Text, nullable=False),
    sa.Column("headers", sa.Text, nullable=False),
    sa.Column("size", sa.Integer),
    sa.Column("digest", sa.Text),
    # The newest of a service, and keeping only those.
    sa.Index("rejected_service", "service", "id"),
)

# What came from each service in each minute (since the epoch).
event_counts = sa.Table(
    "event_counts",
    metadata,
    sa.Column("service", sa.Text, primary_key=True),
    sa.Column("minute", sa.BigInteger, primary_key=True),
    sa.Column("stored", sa.Integer, nullable=False, server_default="0"),
    sa.Column("duplicates", sa.Integer, nullable=False, server_default="0"),
    sa.Column("forged", sa.Integer, nullable=False, server_default="0"),
    sa.Column("refused", sa.Integer, nullable=False, server_default="0"),
)

replays = sa.Table(
    "replays",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("finished_at", sa.Double),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("selection", sa.Text, nullable=False),
    sa.Column("handler", sa.Text),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("total", sa.Integer, nullable=False, server_default="0"),
    sa.Column("events", sa.Integer, nullable=False, server_default="0"),
    sa.Column("jobs", sa.Integer, nullable=False, server_default="0"),
    sa.Column("rate", sa.Double),
    # The inbox id of the last event that was done: where a replay goes on after a crash.
    sa.Column("position", Id),
    sa.Column("reason", sa.Text),
)

# Who did what that cannot be seen elsewhere: replays, skips, prunings by hand, decisions on credentials.
audit = sa.Table(
    "audit",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("at", sa.Double, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("detail", sa.Text, nullable=False),
    # What it was done to, where that is looked for: a credential.
    sa.Column("about", sa.Text),
)
_ABOUT = sa.text("about IS NOT NULL")
# What was done to one thing, newest first.
sa.Index("audit_about", audit.c.about, audit.c.id, sqlite_where=_ABOUT, postgresql_where=_ABOUT)

meta = sa.Table(
    "meta",
    metadata,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

# Accounts at services that users have connected. What opens them is encrypted, and bound to the row's id, owner,
# service and account; the rest is for looking.
connections = sa.Table(
    "connections",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("service", sa.Text, nullable=False),
    sa.Column("account", sa.Text, nullable=False),
    sa.Column("scopes", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    # Which key has encrypted it.
    sa.Column("key_id", sa.Text, nullable=False),
    # Counts every change of the tokens: who wants to change them has to know it.
    sa.Column("version", sa.BigInteger, nullable=False),
    sa.Column("expires_at", sa.Double),
    # Since when a process is refreshing it: a lease.
    sa.Column("refreshing_since", sa.Double),
    # When a refresh began of which the end was never seen: the provider may have taken the old token back.
    sa.Column("lost_at", sa.Double),
    sa.Column("reason", sa.Text),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("updated_at", sa.Double, nullable=False),
)

# One connection for each account of an owner; finding those of an owner.
sa.Index("connections_owner", connections.c.owner, connections.c.service, connections.c.account, unique=True)
# Encrypting anew what an older key has encrypted.
sa.Index("connections_key", connections.c.key_id)
# How many have ended lately; which are still to be revoked.
sa.Index("connections_state", connections.c.state, connections.c.updated_at)

# As which user somebody signs in: a subject of a provider. The e-mail address is in lower case where it is ASCII.
identities = sa.Table(
    "identities",
    metadata,
    sa.Column("provider", sa.Text, primary_key=True),
    sa.Column("subject", sa.Text, primary_key=True),
    sa.Column("user_id", Id, nullable=False),
    sa.Column("email", sa.Text),
    # Whether the provider has answered for the address, at that sign-in.
    sa.Column("email_proved", sa.Boolean, nullable=False),
    sa.Column("name", sa.Text),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("seen_at", sa.Double, nullable=False),
    # All of a user.
    sa.Index("identities_user", "user_id"),
    # Whose an address is.
    sa.Index("identities_email", "email"),
)

# What counts once and was used, until when it would have counted: answers to sign-ins, sessions that were ended.
spent = sa.Table(
    "spent",
    metadata,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("until", sa.Double, nullable=False),
    # Forgetting those that are over, oldest first.
    sa.Index("spent_until", "until"),
)

# Versions of credentials that the application keeps itself. The value is encrypted, and bound to the row's name and id.
secrets = sa.Table(
    "secrets",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    # pending, current or previous; of a name one is current.
    sa.Column("stage", sa.Text, nullable=False),
    sa.Column("sealed", sa.LargeBinary, nullable=False),
    # Which key has encrypted it.
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("not_before", sa.Double),
    sa.Column("not_after", sa.Double),
    sa.Column("created_at", sa.Double, nullable=False),
    # All versions of a name.
    sa.Index("secrets_name", "name"),
    # Encrypting anew what an older key has encrypted.
    sa.Index("secrets_key", "key_id"),
)

# The rotation of credentials: what was decided of each version, which is known by its fingerprint.
key_versions = sa.Table(
    "key_versions",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, primary_key=True),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("since", sa.Double, nullable=False),
    # Where it is found beside the places where the credential is usually looked for: a URL.
    sa.Column("source", sa.Text, nullable=False, server_default=""),
)

# Counts the decisions on a credential: who wants to make the next one has to know it. ``before`` is, in JSON, how all
# stood before the last one.
key_names = sa.Table(
    "key_names",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("revision", sa.BigInteger, nullable=False),
    sa.Column("before", sa.Text),
)

# Which process has which version, and what has become of using it.
key_uses = sa.Table(
    "key_uses",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("version", sa.Text, primary_key=True),
    sa.Column("process", Id, primary_key=True),
    sa.Column("host", sa.Text, nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("origin", sa.Text, nullable=False),
    sa.Column("place", sa.Integer, nullable=False),
    sa.Column("not_before", sa.Double),
    sa.Column("not_after", sa.Double),
    sa.Column("told_at", sa.Double, nullable=False),
    sa.Column("first_at", sa.Double),
    sa.Column("last_at", sa.Double),
    sa.Column("accepted", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("refused", sa.BigInteger, nullable=False, server_default="0"),
    sa.Column("refused_at", sa.Double),
    # Forgetting processes that are gone, oldest first.
    sa.Index("key_uses_told", "told_at"),
)

# How far ``moorline keys rotate`` is with a credential, so that the next run goes on after a crash.
key_rotations = sa.Table(
    "key_rotations",
    metadata,
    sa.Column("id", Id, primary_key=True),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("service", sa.Text, nullable=False),
    sa.Column("step", sa.Text, nullable=False),
    sa.Column("facts", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Column("updated_at", sa.Double, nullable=False),
    sa.Column("ended_at", sa.Double),
)
_UNDER_WAY = sa.text("ended_at IS NULL")
# A credential has one rotation that is under way.
sa.Index(
    "key_rotations_open",
    key_rotations.c.name,
    unique=True,
    sqlite_where=_UNDER_WAY,
    postgresql_where=_UNDER_WAY,
)
