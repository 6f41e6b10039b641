"""The capture decision: from what was captured last and what the log shows now to what must be written next.

Pure. It rests on three facts about SQLite. A frame's checksum covers the whole lap before it, so eight equal
bytes prove an equal prefix. A writer that restarts the log adds one to the first salt and draws the second at random.
And while a read transaction is held, no frame committed after its start can leave the log.
"""

from __future__ import annotations

from dataclasses import dataclass

from vfsstream.replicate.wal import Frame, frame_end, frames_in, next_salt1
from vfsstream.replicate.walindex import IndexHeader

__all__ = ["Captured", "Decision", "Facts", "Full", "Incremental", "Nothing", "TailThenLap", "decide"]


@dataclass(frozen=True, slots=True)
class Captured:
    """Where the newest local L0 file ends in the log.

    Attributes:
        txid: its TXID.
        page_size: bytes.
        commit: database size in pages after it.
        salts: of the lap it was read from.
        end: offset in the log directly behind its last frame; 32 when it holds none of the lap's frames.
        checksum: the 8 checksum bytes of that last frame; ``None`` when nobody recorded them.
        identity: (device, inode) of the database file; ``None`` when nobody recorded it.
        watched: a read transaction has been held without a break since a moment at which everything committed
            had been captured.
    """

    txid: int
    page_size: int
    commit: int
    salts: bytes
    end: int
    checksum: bytes | None = None
    identity: tuple[int, int] | None = None
    watched: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """What the database shows now.

    Attributes:
        index: a consistent wal-index header.
        page_size: of the database, bytes.
        identity: (device, inode) of the database file.
        last: header of the frame that ends at the captured end, whatever lap it is of; ``None`` when the file is
            shorter or no frame can end there.
        same_pages: the frames that the newest L0 file claims are in the log with the same content. Only asked
            for when no checksum was recorded.
    """

    index: IndexHeader
    page_size: int
    identity: tuple[int, int]
    last: Frame | None = None
    same_pages: bool = False


@dataclass(frozen=True, slots=True)
class Nothing:
    """Everything committed is captured."""


@dataclass(frozen=True, slots=True)
class Incremental:
    """The frames of the current lap from ``start`` are all that is missing."""

    start: int


@dataclass(frozen=True, slots=True)
class TailThenLap:
    """One restart was missed: first the rest of the old lap from ``start``, then all of the current lap.

    Attributes:
        salts: of the old lap.
        seed: checksum bytes of the last captured frame; the rest must continue its chain.
    """

    start: int
    salts: bytes
    seed: bytes


@dataclass(frozen=True, slots=True)
class Full:
    """Nothing less than all pages can be proven complete."""

    reason: str


Decision = Nothing | Incremental | TailThenLap | Full


def decide(captured: Captured | None, facts: Facts) -> Decision:
    """What to write next. Never claims an increment that is not proven complete."""
    if captured is None:
        return Full("first capture")
    if captured.page_size != facts.page_size:
        return Full(f"page size changed from {captured.page_size} to {facts.page_size} bytes")
    if captured.identity is not None and captured.identity != facts.identity:
        return Full("the database file was replaced")
    count = frames_in(captured.end, captured.page_size)
    if count is None:
        return Full("the newest file does not end at a frame of the log")
    if facts.index.salts == captured.salts:
        return _same_lap(captured, count, facts)
    return _other_lap(captured, count, facts)


def _same_lap(captured: Captured, count: int, facts: Facts) -> Decision:
    if facts.index.max_frame < count:
        return Full("the log lost frames that had been captured")
    if not captured.watched:
        if not any(captured.salts):  # a log without a header has no salts, so equality says nothing
            return Full("the log was made anew while nobody watched")
        if count and not _proven(captured, facts):
            return Full("the log was overwritten by another process")
    return _from(captured.end, facts)


def _other_lap(captured: Captured, count: int, facts: Facts) -> Decision:
    if captured.watched:
        return _from(frame_end(0, captured.page_size), facts)
    once = facts.index.salts[:4] == next_salt1(captured.salts)
    if once and count and facts.last is not None and _proven(captured, facts):
        if facts.index.max_frame >= count:  # the new lap has reached the frame that was read: a torn look
            return Full("the log was overwritten by another process")
        return TailThenLap(captured.end, captured.salts, facts.last.checksum)
    return Full("the log was restarted while nobody watched")


def _proven(captured: Captured, facts: Facts) -> bool:
    if facts.last is None or facts.last.salts != captured.salts:
        return False
    if captured.checksum is None:
        return facts.same_pages
    return facts.last.checksum == captured.checksum


def _from(start: int, facts: Facts) -> Decision:
    if frame_end(facts.index.max_frame, facts.page_size) <= start:
        return Nothing()
    return Incremental(start)
