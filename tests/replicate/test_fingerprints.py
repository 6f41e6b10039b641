"""Checksums of pages: exactly the state of a TXID, or nothing."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from vfsstream.ltx.checksum import crc64
from vfsstream.replicate.fingerprints import Changes, Fingerprints

PAGE = 512


def changes(pages: dict[int, bytes]) -> Changes:
    made = Changes()
    for pgno, page in sorted(pages.items()):
        made.add(pgno, page)
    return made


@pytest.fixture
def history(tmp_path: Path) -> tuple[Fingerprints, list[dict[int, bytes]]]:
    """Thirty files: the first holds all pages, the others change, grow and shrink."""
    prints = Fingerprints(tmp_path)
    state = {pgno: random.randbytes(PAGE) for pgno in range(1, 21)}
    prints.record(1, 20, changes(state), full=True)
    states = [{}, dict(state)]
    for txid in range(2, 31):
        commit = random.randrange(5, 40)
        changed = {
            pgno: random.randbytes(PAGE) for pgno in range(1, commit + 1) if pgno > len(state) or pgno % 7 == 0
        }
        state = {pgno: page for pgno, page in {**state, **changed}.items() if pgno <= commit}
        prints.record(txid, commit, changes(changed), full=False)
        states.append(dict(state))
    return prints, states


def expected(state: dict[int, bytes]) -> list[int]:
    return [crc64(state[pgno]) for pgno in range(1, len(state) + 1)]


def test_every_txid_since_the_base_is_known(history: tuple[Fingerprints, list[dict[int, bytes]]]) -> None:
    prints, states = history
    for txid in (1, 2, 15, 30):
        found = prints.load(txid)
        assert found is not None
        assert found.tolist() == expected(states[txid])
    assert prints.load(31) is None


def test_folding_changes_nothing_but_the_base(history: tuple[Fingerprints, list[dict[int, bytes]]]) -> None:
    prints, states = history
    prints.fold(30)
    assert prints.journal.stat().st_size == 0
    found = prints.load(30)
    assert found is not None
    assert found.tolist() == expected(states[30])
    assert prints.load(29) is None


def test_a_cut_journal_ends_where_it_is_cut_and_local_files_fill_in(
    history: tuple[Fingerprints, list[dict[int, bytes]]],
) -> None:
    prints, states = history
    data = prints.journal.read_bytes()
    prints.journal.write_bytes(data[:-5])
    assert prints.load(30) is None
    found = prints.load(30, lambda txid: (len(states[txid]), states[txid].items()))
    assert found is not None
    assert found.tolist() == expected(states[30])
    assert prints.load(30, lambda txid: None) is None


def test_damage_anywhere_is_noticed(history: tuple[Fingerprints, list[dict[int, bytes]]]) -> None:
    prints, states = history
    for path in (prints.base, prints.journal):
        intact = path.read_bytes()
        for place in range(0, len(intact), max(1, len(intact) // 50)):
            damaged = bytearray(intact)
            damaged[place] ^= 1
            path.write_bytes(damaged)
            found = prints.load(30)
            assert found is None or np.array_equal(found, np.array(expected(states[30]), np.uint64))
        path.write_bytes(intact)
    prints.forget()
    assert prints.load(30) is None
