"""The truth table of the capture decision, and every combination of its inputs against the rules."""

from __future__ import annotations

import itertools

import pytest

from vfsstream.replicate.decide import (
    Captured,
    Decision,
    Facts,
    Full,
    Incremental,
    Nothing,
    TailThenLap,
    decide,
)
from vfsstream.replicate.wal import Frame, frame_end
from vfsstream.replicate.walindex import IndexHeader

SIZE = 4096
OLD = bytes.fromhex("00000005aabbccdd")
NEXT = bytes.fromhex("0000000611223344")
NEXT_BUT_ONE = bytes.fromhex("0000000755667788")
SUM, OTHER_SUM = b"12345678", b"87654321"
HERE, ELSEWHERE = (1, 10), (1, 11)
OLD_LAST = Frame(3, 7, OLD, SUM)


def facts(
    salts: bytes = OLD,
    frames: int = 10,
    last: Frame | None = OLD_LAST,
    *,
    page_size: int = SIZE,
    identity: tuple[int, int] = HERE,
    same_pages: bool = False,
) -> Facts:
    index = IndexHeader(page_size, frames, 7, SUM, salts, 0)
    return Facts(index, page_size, identity, last, same_pages)


def captured(frames: int = 10, **changes: object) -> Captured:
    values: dict[str, object] = {
        "txid": 4,
        "page_size": SIZE,
        "commit": 7,
        "salts": OLD,
        "end": frame_end(frames, SIZE),
        "checksum": SUM,
        "identity": HERE,
        "watched": False,
    }
    return Captured(**{**values, **changes})  # type: ignore[arg-type]


CASES: list[tuple[str, Captured | None, Facts, type[Decision], int | None]] = [
    ("no file yet", None, facts(), Full, None),
    ("nothing new", captured(), facts(), Nothing, None),
    ("frames appended", captured(), facts(frames=12), Incremental, frame_end(10, SIZE)),
    ("first frames of an empty lap", captured(0, checksum=None), facts(frames=3), Incremental, 32),
    ("empty lap still empty", captured(0, checksum=None), facts(frames=0, last=None), Nothing, None),
    ("page size changed", captured(), facts(page_size=8192), Full, None),
    ("database replaced", captured(), facts(identity=ELSEWHERE), Full, None),
    ("identity not recorded", captured(identity=None), facts(), Nothing, None),
    ("end between two frames", captured(end=100), facts(), Full, None),
    ("end before the log's header", captured(end=0), facts(), Full, None),
    ("log lost captured frames", captured(), facts(frames=9), Full, None),
    ("last frame has other checksum", captured(), facts(last=Frame(3, 7, OLD, OTHER_SUM)), Full, None),
    ("last frame is of another lap", captured(), facts(last=Frame(3, 7, NEXT, SUM)), Full, None),
    ("last frame unreadable", captured(), facts(last=None), Full, None),
    ("no checksum, same pages", captured(checksum=None), facts(frames=11, same_pages=True), Incremental, None),
    ("no checksum, other pages", captured(checksum=None), facts(frames=11), Full, None),
    ("one restart, nothing overwritten", captured(), facts(NEXT, 3), TailThenLap, frame_end(10, SIZE)),
    ("one restart, new lap empty", captured(), facts(NEXT, 0), TailThenLap, frame_end(10, SIZE)),
    ("one restart, last frame gone", captured(), facts(NEXT, 20, Frame(1, 1, NEXT, SUM)), Full, None),
    ("one restart, contradicting look", captured(), facts(NEXT, 10), Full, None),
    ("one restart, other checksum", captured(), facts(NEXT, 3, Frame(3, 7, OLD, OTHER_SUM)), Full, None),
    ("one restart of a lap never captured", captured(0, checksum=None), facts(NEXT, 3, None), Full, None),
    (
        "one restart, no checksum, same pages",
        captured(checksum=None),
        facts(NEXT, 3, same_pages=True),
        TailThenLap,
        None,
    ),
    ("one restart, no checksum, other pages", captured(checksum=None), facts(NEXT, 3), Full, None),
    ("two restarts", captured(), facts(NEXT_BUT_ONE, 3), Full, None),
    ("random salts", captured(), facts(b"randomly", 3), Full, None),
    ("watched: appended", captured(watched=True), facts(frames=11, last=None), Incremental, frame_end(10, SIZE)),
    ("watched: restarted", captured(watched=True), facts(NEXT, 3, None), Incremental, 32),
    ("watched: restarted past the end", captured(watched=True), facts(NEXT, 30, None), Incremental, 32),
    ("watched: random salts", captured(watched=True), facts(b"randomly", 1, None), Incremental, 32),
    ("watched: restarted, still empty", captured(watched=True), facts(NEXT, 0, None), Nothing, None),
    ("watched: frames vanished", captured(watched=True), facts(frames=9), Full, None),
    ("watched: replaced", captured(watched=True), facts(identity=ELSEWHERE), Full, None),
    ("log without salts", captured(0, salts=bytes(8), checksum=None), facts(bytes(8), 0, None), Full, None),
    (
        "watched log without salts",
        captured(0, salts=bytes(8), checksum=None, watched=True),
        facts(bytes(8), 0, None),
        Nothing,
        None,
    ),
]


@pytest.mark.parametrize(("name", "before", "now", "kind", "start"), CASES, ids=[case[0] for case in CASES])
def test_row(name: str, before: Captured | None, now: Facts, kind: type[Decision], start: int | None) -> None:
    decision = decide(before, now)
    assert type(decision) is kind, decision
    if start is not None:
        assert isinstance(decision, Incremental | TailThenLap)
        assert decision.start == start


def test_the_first_salt_wraps() -> None:
    before = captured(salts=b"\xff\xff\xff\xffabcd")
    now = facts(b"\0\0\0\0efgh", 2, Frame(3, 7, before.salts, SUM))
    assert decide(before, now) == TailThenLap(before.end, before.salts, SUM)


def test_the_seed_of_an_unrecorded_end_is_the_frame_s_own() -> None:
    decision = decide(captured(checksum=None), facts(NEXT, 3, Frame(3, 7, OLD, OTHER_SUM), same_pages=True))
    assert decision == TailThenLap(frame_end(10, SIZE), OLD, OTHER_SUM)


def test_every_combination_claims_an_increment_only_with_proof() -> None:
    """All inputs at once: whatever is not Full must rest on one of the four proofs."""
    lasts = [None, OLD_LAST, Frame(3, 7, OLD, OTHER_SUM), Frame(3, 7, NEXT, SUM)]
    for frames, checksum, watched, identity, salts, log, last, same, page_size in itertools.product(
        (0, 10),
        (SUM, None),
        (False, True),
        (HERE, ELSEWHERE, None),
        (OLD, NEXT, NEXT_BUT_ONE, bytes(8)),
        (0, 3, 10, 11),
        lasts,
        (False, True),
        (SIZE, 8192),
    ):
        before = captured(frames, checksum=checksum, watched=watched, identity=identity)
        now = facts(salts, log, last, page_size=page_size, same_pages=same)
        decision = decide(before, now)
        same_file = page_size == SIZE and identity in (HERE, None)
        chained = last is not None and last.salts == OLD and (last.checksum == checksum if checksum else same)
        allowed = same_file and (
            watched
            or (salts == OLD and frames == 0)
            or (salts == OLD and log >= frames and chained)
            or (salts == NEXT and frames > 0 and chained and log < frames)
        )
        allowed = allowed and not (salts == OLD and log < frames)
        assert isinstance(decision, Full) is not allowed, (before, now, decision)
        if isinstance(decision, TailThenLap):
            assert salts == NEXT
            assert not watched
        if isinstance(decision, Incremental):
            assert decision.start < frame_end(log, SIZE)
            assert decision.start == (frame_end(frames, SIZE) if salts == OLD else 32)
        if isinstance(decision, Nothing):
            assert log == (frames if salts == OLD else 0)
