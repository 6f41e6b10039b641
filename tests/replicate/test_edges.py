"""Edge cases."""

from __future__ import annotations

from tests.replicate.case import Case
from vfsstream.replicate.database import Database
from vfsstream.replicate.events import Checkpointed
from vfsstream.replicate.replicator import once
from vfsstream.replicate.settings import Settings


def test_whoever_writes_all_the_time_does_not_keep_checkpoints_away(case: Case) -> None:
    """Each file covers one transaction, and while it is written two more come: the log is truncated all the same."""
    left = 1500

    def at_point(point: str) -> None:
        nonlocal left
        if point == "capture:recorded" and left and not checkpointed():
            left -= 2
            case.write(2)

    def checkpointed() -> bool:
        return any(isinstance(event, Checkpointed) for event in case.events)

    settings = Settings(max_sync_wal_bytes=1, truncate_pages=200)
    database = Database(
        case.path, f"file://{case.replica}", settings=settings, observer=case.events.append, at_point=at_point
    )
    with database:
        while left and not checkpointed():
            database._next_look = 0.0
            database.step_capture()
        assert left, "the log was truncated before the writer paused"
        once(database)
    case.same()
