"""What every broker's notes must do: what is told of a job while it runs, and what it came to."""

from __future__ import annotations

from moorline.clock import ManualClock
from moorline.jobs.broker import Broker
from moorline.jobs.notes import Note


class NotesConformance:
    """The contract of ``moorline.jobs.notes.Notes``."""

    async def test_progress_and_a_result_are_read_as_they_were_written(
        self, broker: Broker, clock: ManualClock
    ) -> None:
        """The newest word counts; a result stays beside it, an empty one as well."""
        now = clock.wall()
        assert await broker.notes.read("j") is None
        await broker.notes.write([Note("j", 1, now, 0.25, "one of four"), Note("k", 1, now, 0.0, "begun")])
        await broker.notes.write([Note("j", 1, now + 1, 0.5)])
        note = await broker.notes.read("j")
        assert note is not None
        assert (note.done, note.message, note.result, note.at) == (0.5, "one of four", None, now + 1)
        for result in (b"", b'{"a":"\xc3\xa4"}'):
            await broker.notes.write([Note("j", 1, now + 2, 1.0, None, result)])
            await broker.notes.write([Note("j", 1, now + 2, 1.0, "late word")])
            note = await broker.notes.read("j")
            assert note is not None
            assert (note.done, note.result) == (1.0, result)

    async def test_a_later_claim_of_the_job_is_believed(self, broker: Broker, clock: ManualClock) -> None:
        """What a worker says that lost the job is not; what it came to before is void when it runs again."""
        now = clock.wall()
        await broker.notes.write([Note("j", 1, now, 1.0, "", b"1")])
        await broker.notes.write([Note("j", 3, now, 0.1, "again")])
        await broker.notes.write([Note("j", 2, now, 1.0, "lost", b"2")])
        note = await broker.notes.read("j")
        assert note is not None
        assert (note.done, note.message, note.result) == (0.1, "again", None)

    async def test_stops_are_for_one_claim(self, broker: Broker, clock: ManualClock) -> None:
        """Who runs the job after that is not asked to stop; nor does the progress of the job undo it."""
        await broker.notes.ask_to_stop("j", 2, "wrong file")
        await broker.notes.write([Note("j", 2, clock.wall(), 0.5)])
        assert await broker.notes.stops({"j": 2, "other": 1}) == {"j": "wrong file"}
        assert await broker.notes.stops({"j": 3}) == {}
        await broker.notes.ask_to_stop("j", 3, "again")
        assert await broker.notes.stops({"j": 3}) == {"j": "again"}

    async def test_many_are_written_at_once(self, broker: Broker, clock: ManualClock) -> None:
        """Some thousand jobs tell at the same time."""
        await broker.notes.write([Note(f"j{n}", 1, clock.wall(), n / 3000, str(n)) for n in range(3000)])
        note = await broker.notes.read("j2999")
        assert note is not None
        assert note.message == "2999"
