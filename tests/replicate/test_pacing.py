"""The pure judgements of time: backoff, pace, poll rate, lag, and when to checkpoint."""

from __future__ import annotations

import pytest

from vfsstream.errors import UsageError
from vfsstream.ltx.names import TXID
from vfsstream.replicate.backoff import Backoff, Pace
from vfsstream.replicate.checkpoint import Pacing, Situation, is_due
from vfsstream.replicate.settings import Settings
from vfsstream.replicate.status import Lag
from vfsstream.replicate.wal import frame_end


def test_backoff_doubles_up_to_its_limit_and_starts_over() -> None:
    backoff = Backoff(1.0, 300.0)
    assert backoff.ready(0.0)
    pauses = []
    for _ in range(12):
        backoff.failed(0.0)
        pauses.append(next(second for second in range(1000) if backoff.ready(float(second))))
    assert pauses == [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]
    assert backoff.succeeded() == 12
    assert backoff.ready(0.0)
    assert backoff.failures == 0


def test_a_pace_lets_a_burst_through_and_then_holds_the_average() -> None:
    pace = Pace(1.0, 3)
    written = []
    for tick in range(1000):  # ten seconds of commits every ten milliseconds
        now = 100.0 + tick / 100
        if pace.ready(now):
            pace.take(now)
            written.append(now)
    assert written[:3] == [100.0, 100.01, 100.02]
    assert 11 <= len(written) <= 13


def test_the_lag_counts_from_the_commit_not_from_the_capture() -> None:
    lag = Lag()
    assert lag.seconds(5.0) == 0.0
    lag.saw_change(10.0)
    lag.saw_change(11.0)
    assert lag.seconds(12.0) == 2.0, "not even captured"
    lag.captured(TXID(1), 13.0, complete=True)
    assert lag.seconds(14.0) == 4.0, "captured, not uploaded"
    lag.saw_change(15.0)
    lag.captured(TXID(2), 15.5, complete=False)
    lag.uploaded(TXID(1))
    assert lag.seconds(16.0) == 1.0
    lag.uploaded(TXID(2))
    assert lag.seconds(16.0) == 1.0, "the rest is still to be captured"
    lag.nothing_left()
    assert lag.seconds(17.0) == 0.0


@pytest.mark.parametrize("page_size", [512, 4096, 65536])
def test_when_a_checkpoint_is_due(page_size: int) -> None:
    settings = Settings()

    def due(frames: int, since: float, uncopied: bool = True) -> str | None:
        return is_due(Situation(frame_end(frames, page_size), page_size, uncopied, since), settings)

    assert due(999, 10) is None
    assert due(1000, 10) == "size"
    assert due(1000, 0.5) is None, "not more often than once per monitor interval"
    assert due(121_358, 10) == "size"
    assert due(121_359, 0) == "emergency"
    assert due(1, 59.9) is None
    assert due(1, 60.0) == "time"
    assert due(200_000, 100, uncopied=False) is None


def test_attempts_without_effect_come_less_and_less_often() -> None:
    pacing = Pacing()
    pauses, now = [], 0.0
    for _ in range(9):
        pacing.record(now, b"lap-one!", complete=False)
        later = now
        while not pacing.allows(later):
            later += 0.5
        pauses.append(later - now)
        now = later
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    pacing.record(now, b"lap-two!", complete=True)
    assert pacing.allows(now)
    pacing.record(now, b"lap-two!", complete=True)
    assert not pacing.allows(now), "all was copied, yet the lap went on: a reader is in the way"


def test_settings_that_cannot_be_are_refused() -> None:
    from datetime import timedelta

    assert Settings(truncate_pages=0).truncate_pages == 121_359
    for wrong in (
        {"poll_interval": timedelta(0)},
        {"busy_timeout": timedelta(seconds=-1)},
        {"min_checkpoint_pages": 0},
        {"max_sync_wal_bytes": -1},
        {"fork": "perhaps"},
    ):
        with pytest.raises(UsageError, match=next(iter(wrong))):
            Settings(**wrong)  # type: ignore[arg-type]
