"""Readers of different views share requests, while the follower goes on appending files."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.vfs.replicas import increment, make_database, snapshot
from tests.vfs.shim import view_of
from vfsstream.errors import NotFound
from vfsstream.ltx import TXID
from vfsstream.plan.files import FileInfo
from vfsstream.vfs.fetch import FetchEngine
from vfsstream.vfs.options import Options
from vfsstream.vfs.pagemap import fold


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    return make_database(tmp_path_factory.mktemp("db") / "db", 2000)


def test_a_view_is_folded_while_its_list_of_files_grows(pages: list[bytes]) -> None:
    view = view_of(snapshot(pages))
    later = FileInfo(TXID(99), TXID(99), 0, 1000)

    def meanwhile() -> None:
        assert isinstance(view.files, list)
        view.files.append(later)

    folded = fold(view, meanwhile)
    assert later not in folded.files
    assert folded.find(2) == view.find(2)


@pytest.mark.parametrize("vanished", [False, True])
def test_a_request_of_another_view_is_shared_whatever_the_numbers_of_its_files(
    pages: list[bytes], tmp_path: Path, vanished: bool
) -> None:
    replica = snapshot(pages)
    for txid in range(2, 6):  # all of page 2: the files before the last serve nothing
        increment(replica, len(pages), {2: pages[1]}, txid)
    first = view_of(replica)
    second = fold(first)
    assert len(second.files) < len(first.files)
    if vanished:  # the second view has found the page in another file since
        info = replica.write(1, 2, 5, replica.fetch(first.files[-1]).data, timestamp=0)
        second.files[-1] = info  # type: ignore[index]
    engine = FetchEngine(replica, Options(replica_url="memory:", prefetch="off"))
    held, go = threading.Event(), threading.Event()

    def hold(operation: str, key: str) -> None:
        if operation == "get" and not held.is_set():
            held.set()
            assert go.wait(60)
            if vanished:
                raise NotFound(key)

    replica.store.fault = hold  # type: ignore[attr-defined]
    got: list[object] = []

    def read(view: object) -> None:
        try:
            got.append(bytes(engine.read(view, 2, lambda: None)))  # type: ignore[arg-type]
        except NotFound as error:
            got.append(error)

    threads = [threading.Thread(target=read, args=(view,)) for view in (first, second)]
    threads[0].start()
    assert held.wait(60)
    threads[1].start()
    while engine._counts["waits"] < 2:
        assert threads[1].is_alive()
    go.set()
    for thread in threads:
        thread.join(60)
    engine.close()
    answers = sorted(got, key=lambda answer: isinstance(answer, Exception))
    assert answers[0] == pages[1]
    assert isinstance(answers[1], NotFound) if vanished else answers[1] == pages[1]
