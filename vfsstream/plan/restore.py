"""Which files, in which order, make the database of a TXID or a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from vfsstream.errors import NotRestorable, ReplicaEmpty, UsageError
from vfsstream.ltx.names import SNAPSHOT_LEVEL, TXID
from vfsstream.plan.files import FileInfo
from vfsstream.plan.points import every_file, nearest, restorable

__all__ = ["restore_plan"]

Files = Mapping[int, Sequence[FileInfo]]


def restore_plan(
    files: Files, *, txid: int | None = None, timestamp: datetime | None = None, allow_gap: bool = False
) -> list[FileInfo]:
    """The files to apply in order, chosen as Litestream chooses them.

    Args:
        files: the listing of each level.
        txid: restore exactly this TXID; the newest when ``None`` or 0.
        timestamp: restore the newest state strictly older than this; excludes ``txid``.
        allow_gap: at a gap in the history stop before it instead of refusing.

    Raises:
        ReplicaEmpty: there is no file at all.
        NotRestorable: no set of files leads there; the message names the nearest moments that work.
        UsageError: both a TXID and a time.
    """
    if txid and timestamp is not None:
        raise UsageError("a TXID and a time exclude each other")
    everything = every_file(files)
    if not everything:
        raise ReplicaEmpty("the replica holds no LTX files", hint="check the URL and its path")
    if txid:
        usable = [info for info in everything if info.max_txid <= txid]
    elif timestamp is not None:
        usable = [info for info in everything if info.created_at is None or info.created_at < timestamp]
        if not usable:
            raise NotRestorable(f"nothing is older than {_shown(timestamp)}", hint=_span(everything))
    else:
        usable = everything
    plan = _chain(usable)
    reached = plan[-1].max_txid if plan else TXID(0)
    wanted = txid or max((info.max_txid for info in usable), default=TXID(0))
    if reached < wanted and not (plan and allow_gap and not txid):
        raise _refusal(everything, usable, reached, wanted, exact=bool(txid))
    return plan


def _chain(usable: Sequence[FileInfo]) -> list[FileInfo]:
    snapshots = [info for info in usable if info.level == SNAPSHOT_LEVEL and info.is_snapshot]
    plan = [max(snapshots, key=lambda info: info.max_txid)] if snapshots else []
    current = int(plan[0].max_txid) if plan else 0
    rest = sorted((info for info in usable if info.level != SNAPSHOT_LEVEL), key=lambda info: info.min_txid)
    best: FileInfo | None = None
    place = 0
    while True:
        while place < len(rest) and rest[place].min_txid <= current + 1:
            if best is None or _preference(rest[place]) > _preference(best):
                best = rest[place]
            place += 1
        if best is None or best.max_txid <= current:
            return plan
        plan.append(best)
        current = int(best.max_txid)


def _preference(info: FileInfo) -> tuple[int, int, int]:
    """Larger last TXID, then smaller first TXID, then higher level."""
    return int(info.max_txid), -int(info.min_txid), info.level


def _refusal(
    everything: Sequence[FileInfo], usable: Sequence[FileInfo], reached: TXID, wanted: int, *, exact: bool
) -> NotRestorable:
    points = restorable(everything)
    if not points:
        first = min(usable or everything, key=lambda info: info.min_txid)
        return NotRestorable(
            f"no full image to start from: the history begins at TXID {first.min_txid}",
            hint="the replica lacks a snapshot; restore from another copy",
        )
    if exact:
        before, after = nearest(points, wanted)
        return NotRestorable(
            f"transaction {TXID(wanted)} is not available: no file ends exactly there", hint=_around(before, after)
        )
    following = min((info.min_txid for info in usable if info.min_txid > reached + 1), default=TXID(wanted))
    return NotRestorable(
        f"non-contiguous files: have up to TXID {reached} but the next file starts at {following}",
        hint=f"restore what is whole with -txid {reached}" if reached else _span(points),
    )


def _around(before: FileInfo | None, after: FileInfo | None) -> str:
    return "nearest: " + " and ".join(_moment(point) for point in (before, after) if point is not None)


def _span(infos: Sequence[FileInfo]) -> str:
    # Files without a time are usable at any time, so one that was left out for its time is among these.
    times = [info.created_at for info in infos if info.created_at is not None]
    return f"files range from {_shown(min(times))} to {_shown(max(times))}"


def _moment(point: FileInfo) -> str:
    at = f" ({_shown(point.created_at)})" if point.created_at else ""
    return f"{point.max_txid}{at}"


def _shown(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
