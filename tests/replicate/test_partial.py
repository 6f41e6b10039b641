"""A killed restore is continued where it was, or begun anew where that would be wrong."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import ROOT
from vfsstream.ltx import TXID, Header, encode
from vfsstream.replica import Replica
from vfsstream.replicate import assemble
from vfsstream.replicate.partial import Note, find_partial, remove_stale, save_note
from vfsstream.replicate.restore import RestoreResult, restore
from vfsstream.stores import FileStore

PAGE, COUNT = 4096, 3000
DYING = """
import os, signal, sys
from vfsstream.replica import Replica
from vfsstream.replicate import assemble, restore, target
assemble.SAVE_EVERY = 1 << 20
left = [int(sys.argv[3])]
save = target.Target.save
def die(self, note):
    save(self, note)
    left[0] -= 1
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
target.Target.save = die
restore.restore(Replica.open(sys.argv[1]), sys.argv[2], txid=int(sys.argv[4]))
"""


class History:
    """A replica that grows: a snapshot of 12 MB and small files after it."""

    def __init__(self, root: Path) -> None:
        self.noise = random.Random(5)
        self.replica = Replica(FileStore(root))
        self.image = [self.noise.randbytes(PAGE) for _ in range(COUNT)]
        self.txid = 1
        header = Header(PAGE, COUNT, TXID(1), TXID(1), 0)
        self.replica.write(9, 1, 1, encode(header, enumerate(self.image, 1)), timestamp=0)
        self.states = {1: self.sha()}

    def sha(self) -> str:
        return hashlib.sha256(b"".join(self.image)).hexdigest()

    def change(self, pgnos: list[int]) -> None:
        self.txid += 1
        for pgno in pgnos:
            self.image[pgno - 1] = self.noise.randbytes(PAGE)
        header = Header(PAGE, COUNT, TXID(self.txid), TXID(self.txid), self.txid)
        pages = [(pgno, self.image[pgno - 1]) for pgno in pgnos]
        self.replica.write(0, self.txid, self.txid, encode(header, pages), timestamp=self.txid)
        self.states[self.txid] = self.sha()


@pytest.fixture
def history(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> History:
    monkeypatch.setattr(assemble, "SAVE_EVERY", 1 << 20)
    return History(tmp_path / "replica")


def die(history: History, output: Path, saves: int, txid: int = 0) -> Note:
    """Run a restore that is killed right after it noted its progress so many times; returns the last note."""
    root = Path(str(history.replica.store.describe()).removeprefix("file://"))
    command = [sys.executable, "-c", DYING, str(root), str(output), str(saves), str(txid)]
    assert subprocess.run(command, cwd=ROOT, timeout=120, check=False).returncode == -signal.SIGKILL
    assert not output.exists()
    partial = find_partial(output)
    assert partial is not None
    os.close(partial.descriptor)
    return partial.note


def finish(history: History, output: Path, txid: int | None = None) -> RestoreResult:
    result = restore(history.replica, output, txid=txid)
    assert hashlib.sha256(output.read_bytes()).hexdigest() == history.states[txid or history.txid]
    assert [path.name for path in output.parent.iterdir() if path.is_file()] == [output.name]
    return result


def test_a_lone_snapshot_is_taken_up_where_it_was(history: History, tmp_path: Path) -> None:
    note = die(history, tmp_path / "app.db", 7)
    result = finish(history, tmp_path / "app.db")
    assert 0 < result.read <= result.files[0].size - note.offset + 100


def test_killed_again_and_again_it_still_gets_on(history: History, tmp_path: Path) -> None:
    history.change([3, 700])
    offsets = [die(history, tmp_path / "app.db", 2).offset for _ in range(4)]
    assert offsets == sorted(set(offsets))
    assert (
        finish(history, tmp_path / "app.db").read
        < sum(i.size for i in history.replica.files(9)) - offsets[-1] + 99_999
    )


def test_files_that_came_since_are_applied_too(history: History, tmp_path: Path) -> None:
    history.change([1, 10, 2900])
    die(history, tmp_path / "app.db", 6)
    history.change([2, 10, 50, 2901])
    history.change([1])
    result = finish(history, tmp_path / "app.db")
    assert result.read < result.files[0].size


def test_an_earlier_moment_does_not_get_pages_of_a_later_one(history: History, tmp_path: Path) -> None:
    history.change([5])
    history.change([6])
    die(history, tmp_path / "app.db", 6)
    result = finish(history, tmp_path / "app.db", txid=2)  # page 6 of the snapshot was not written
    assert result.read > result.files[0].size


def test_a_later_moment_after_an_earlier_one(history: History, tmp_path: Path) -> None:
    history.change([5])
    history.change([6])
    die(history, tmp_path / "app.db", 6, txid=2)
    result = finish(history, tmp_path / "app.db", txid=3)
    assert result.read < result.files[0].size


@pytest.mark.parametrize("harm", ["checksum", "offset", "garbage", "gone", "other size"])
def test_a_note_that_is_wrong_leads_to_a_start_from_nothing(harm: str, history: History, tmp_path: Path) -> None:
    output = tmp_path / "app.db"
    note = die(history, output, 5)
    partial = find_partial(output)
    assert partial is not None
    os.close(partial.descriptor)
    wrong = {
        "checksum": replace(note, checksum=note.checksum ^ 1),
        "offset": replace(note, offset=note.offset + 1),
        "other size": replace(note, size=note.size + 1),
    }
    beside = partial.path.with_name(partial.path.name + ".note")
    if harm in wrong:
        save_note(partial.path, wrong[harm])
    elif harm == "garbage":
        beside.write_bytes(beside.read_bytes()[:-9])
    else:
        beside.unlink()
    result = finish(history, output)
    assert result.read >= result.files[0].size


def test_only_the_own_and_the_furthest_is_taken_up(history: History, tmp_path: Path) -> None:
    output = tmp_path / "app.db"
    die(history, output, 4)
    partial = find_partial(output)
    assert partial is not None
    assert find_partial(output) is None, "it is locked"
    remove_stale(output, keep=output)
    assert partial.path.exists()
    os.close(partial.descriptor)
    link = tmp_path / ".app.db.1.0123abcd.restoring"
    link.symlink_to(partial.path)
    save_note(link, replace(partial.note, offset=partial.note.offset + 5))
    behind = tmp_path / ".app.db.1.0123abce.restoring"
    behind.write_bytes(b"")
    save_note(behind, replace(partial.note, offset=101))
    again = find_partial(output)
    assert again is not None
    os.close(again.descriptor)
    assert again.path == partial.path
    finish(history, output)
