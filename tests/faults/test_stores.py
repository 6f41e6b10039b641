"""Every store under the faults of networks and servers: right bytes, or an error in time that names the cause."""

from __future__ import annotations

import importlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.targets import Place, new_place
from tests.faults.http import Fault, HttpFaults
from tests.faults.proxy import FaultProxy
from tests.servers.fixtures import SERVERS
from vfsstream.errors import AlreadyExists, DeadlineExceeded, NotFound, StoreError, VfsstreamError
from vfsstream.stores import Store
from vfsstream.stores.retry import RetryPolicy
from vfsstream.stores.sftp_wire import SftpChannel
from vfsstream.stores.url import open_store

KEY = "ltx/0/0000000000000001-0000000000000001.ltx"
DATA = random.Random(1).randbytes(300_000)
EAGER = RetryPolicy(attempts=8, base_delay=0.02, max_delay=0.2, deadline=60)
HTTP_KINDS = {"moto", "radosgw", "gcs", "azurite", "webdav", "oss"}


def moved(place: Place, port: int, policy: RetryPolicy, monkeypatch: pytest.MonkeyPatch | None = None) -> Store:
    """The store of a place, reached by another port."""
    old, new = str(place.server.port), str(port)
    if monkeypatch is not None:
        for name, value in place.environment.items():
            monkeypatch.setenv(name, value.replace(old, new))
    options = {name: str(value).replace(f":{old}", f":{new}") for name, value in place.options.items()}
    return open_store(place.url.replace(f":{old}", f":{new}"), options, retry=policy)


@pytest.fixture
def proxy(place: Place) -> Iterator[FaultProxy]:
    if place.server is None:
        pytest.skip("no network in between")
    with FaultProxy(place.server.port) as running:
        yield running


def test_reads_survive_cuts_at_every_stage(
    place: Place, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with place.open() as direct:
        direct.put(KEY, DATA)
    for cut in (0, 1, 60, 700, 2_500, 9_000, 50_000, 150_000, 299_000, 300_100, 301_500):
        proxy.cut_down_after, proxy.cuts_left = cut, 2
        with moved(place, proxy.port, EAGER, monkeypatch) as store:
            assert store.get(KEY) == DATA, cut
            assert store.get(KEY, 1000, 5000) == DATA[1000:6000], cut
            assert b"".join(store.stream(KEY)) == DATA, cut
            assert [info.size for info in store.list("ltx/0/")] == [len(DATA)], cut
    assert proxy.cut >= 8, "connections were really cut"


@pytest.mark.parametrize("cut", [0, 300, 3_000, 60_000, 200_000, 299_000])
def test_a_put_that_is_cut_succeeds_again_or_leaves_nothing(
    place: Place, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    old = b"what was there before" * 100
    other = KEY.replace("1.ltx", "2.ltx")
    with place.open() as direct:
        direct.put(other, old)
        proxy.cut_up_after, proxy.cuts_left = cut, 1
        with moved(place, proxy.port, EAGER, monkeypatch) as store:
            store.put(KEY, DATA)
        assert direct.get(KEY) == DATA
        direct.delete([KEY])
        proxy.cuts_left = 1 << 30
        hopeless = RetryPolicy(attempts=2, base_delay=0.01, deadline=20)
        with moved(place, proxy.port, hopeless, monkeypatch) as store:
            for key in (KEY, other):
                with pytest.raises(StoreError) as caught:
                    store.put(key, DATA)
                assert str(caught.value).strip()
        proxy.behave()
        _eventually(lambda: _whole(direct, KEY, None) and _whole(direct, other, old))
        names = [info.key for info in direct.list("ltx/0/")]
        assert set(names) <= {KEY, other}


def _whole(store: Store, key: str, before: bytes | None) -> bool:
    """An object is what it was before, or the new one complete."""
    try:
        found = store.get(key)
    except NotFound:
        return before is None
    assert found in (before, DATA), f"{key} has {len(found)} bytes"
    return True


def _eventually(check: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not check():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_a_silent_server_ends_in_time(place: Place, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    with place.open() as direct:
        direct.put(KEY, DATA)
    with moved(place, proxy.port, RetryPolicy(attempts=3, deadline=2), monkeypatch) as store:
        assert store.get(KEY) == DATA
        proxy.stall = True
        begun = time.monotonic()
        with pytest.raises(DeadlineExceeded) as caught:
            store.get(KEY, 0, 100)
        assert time.monotonic() - begun < 25
        assert len(str(caught.value)) > 20, "it says what did not answer"
        proxy.stall = False
        proxy.reset_all()
        assert store.get(KEY, 0, 100) == DATA[:100]


def test_a_refusing_server_is_named_and_comes_back(
    place: Place, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    with place.open() as direct:
        direct.put(KEY, DATA)
    proxy.refuse = True
    with moved(place, proxy.port, RetryPolicy(attempts=3, base_delay=0.05, deadline=20), monkeypatch) as store:
        with pytest.raises(StoreError) as caught:
            store.get(KEY)
        assert caught.value.retryable
        assert str(proxy.port) in str(caught.value) or "connect" in str(caught.value).lower(), str(caught.value)
        proxy.refuse = False
        assert store.get(KEY) == DATA


def test_a_slow_line_is_no_failure(place: Place, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    with place.open() as direct:
        direct.put(KEY, DATA)
    proxy.rate, proxy.delay = 1_000_000, 0.002
    with moved(place, proxy.port, EAGER, monkeypatch) as store:
        assert store.get(KEY) == DATA


@pytest.mark.parametrize("status", [429, 500, 503, 408])
def test_http_faults_are_tried_again(place: Place, status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if place.name not in HTTP_KINDS:
        pytest.skip("does not speak HTTP")
    with place.open() as direct:
        direct.put(KEY, DATA)
    with HttpFaults(place.server.port) as front, moved(place, front.port, EAGER, monkeypatch) as store:
        for action in (
            lambda: store.get(KEY) == DATA,
            lambda: store.get(KEY, 10, 20) == DATA[10:30],
            lambda: [info.size for info in store.list("ltx/0/")] == [len(DATA)],
            lambda: store.put(KEY, DATA).size == len(DATA),
            lambda: store.head(KEY).size == len(DATA),
            lambda: store.delete([KEY]) is None,
        ):
            front.add(Fault(times=2, status=status))
            assert action()
        assert front.hits == 12, "every fault was met"


def test_lasting_http_faults_say_so(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    if place.name not in HTTP_KINDS:
        pytest.skip("does not speak HTTP")
    policy = RetryPolicy(attempts=3, base_delay=0.01, deadline=30)
    with HttpFaults(place.server.port) as front, moved(place, front.port, policy, monkeypatch) as store:
        front.add(Fault(times=1 << 30, status=503))
        for action in (lambda: store.get(KEY), lambda: store.put(KEY, DATA), lambda: [*store.list("ltx/0/")]):
            with pytest.raises(StoreError, match=r"503|[Uu]navailable") as caught:
                action()
            assert caught.value.retryable


def test_truncated_bodies_are_never_taken_for_whole(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    if place.name not in HTTP_KINDS:
        pytest.skip("does not speak HTTP")
    with place.open() as direct:
        direct.put(KEY, DATA)
    with HttpFaults(place.server.port) as front, moved(place, front.port, EAGER, monkeypatch) as store:
        for length in (0, 1, 1000, 299_999):
            front.add(Fault(times=2, truncate=length, match=b"GET"))
            assert store.get(KEY) == DATA
            front.add(Fault(times=2, truncate=length, match=b"GET"))
            assert b"".join(store.stream(KEY)) == DATA
        front.clear()
        front.add(Fault(times=1 << 30, truncate=100, match=b"GET"))
        with pytest.raises(StoreError):
            store.get(KEY)


@pytest.mark.server
@pytest.mark.xdist_group("nats")
@pytest.mark.parametrize("content", [DATA, b"small"])
def test_a_description_on_nats_whose_answer_was_lost_is_known_as_ours(
    server: Callable[[str], Any], tmp_path: Path, content: bytes
) -> None:
    place = new_place("nats", tmp_path, server)
    with FaultProxy(place.server.port) as proxy, moved(place, proxy.port, EAGER) as store:
        for key, expected in ((KEY, content), (KEY.replace("1.ltx", "2.ltx"), content)):
            proxy.lose_answer_to, proxy.cuts_left = b"Nats-Rollup", 1
            assert store.put(key, expected, if_absent=True).size == len(expected)
            assert store.get(key) == expected
        assert proxy.cut == 2
        proxy.cuts_left = 1
        with pytest.raises(AlreadyExists):
            store.put(KEY, content[::-1], if_absent=True)
        assert store.get(KEY) == content


@pytest.mark.server
@pytest.mark.xdist_group("sftp")
def test_a_name_on_sftp_whose_answer_was_lost_is_known_as_ours(
    server: Callable[[str], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = new_place("sftp", tmp_path, server)
    real, lost = SftpChannel.rename_new, []

    def rename(channel: SftpChannel, old: str, new: str) -> None:
        real(channel, old, new)
        if not lost:
            lost.append(new)
            channel.client.get_channel().get_transport().close()
            raise EOFError

    monkeypatch.setattr(SftpChannel, "rename_new", rename)
    with place.open() as store:
        assert store.put(KEY, DATA, if_absent=True).size == len(DATA)
        assert len(lost) == 1
        lost.clear()
        with pytest.raises(AlreadyExists):
            store.put(KEY, DATA[::-1], if_absent=True)
        assert store.get(KEY) == DATA
        assert [info.key for info in store.list("ltx/0/")] == [KEY], "nothing unfinished is left"


@pytest.mark.parametrize("fault", [{"shift": 7}, {"shift": -1}, {"short": 9}])
def test_another_part_than_the_one_asked_for_is_never_taken(
    place: Place, fault: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if place.name not in HTTP_KINDS:
        pytest.skip("does not speak HTTP")
    with place.open() as direct:
        direct.put(KEY, DATA)
    with HttpFaults(place.server.port) as front, moved(place, front.port, EAGER, monkeypatch) as store:
        front.add(Fault(times=2, match=b"GET", **fault))  # type: ignore[arg-type]
        assert store.get(KEY, 1000, 5000) == DATA[1000:6000]
        front.add(Fault(times=2, match=b"GET", **fault))  # type: ignore[arg-type]
        assert b"".join(store.stream(KEY, 1000)) == DATA[1000:]
        assert front.hits == 4
        front.add(Fault(times=1 << 30, match=b"GET", **fault))  # type: ignore[arg-type]
        with pytest.raises(StoreError, match="the server sent bytes"):
            store.get(KEY, 1000, 5000)


LAST_WORD = {
    "moto": (rb"PUT ", rb"POST .*\?uploadId="),
    "radosgw": (rb"PUT ", rb"POST .*\?uploadId="),
    "gcs": (rb"POST ", rb"PUT "),
    "azurite": (rb"PUT ", rb"PUT .*comp=blocklist"),
    "webdav": (rb"MOVE ", rb"PUT "),
    "oss": (rb"PUT ", rb"POST .*\?uploadId="),
}
"""The request that makes a small object visible, and the one that makes a large one so."""


@pytest.mark.parametrize("large", [False, True])
def test_a_put_whose_answer_was_lost_is_known_as_ours(
    place: Place, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if place.name not in LAST_WORD:
        pytest.skip("does not speak HTTP")
    data = random.Random(2).randbytes(max(place.traits.multipart, 8 << 20) + (1 << 20)) if large else DATA
    with HttpFaults(place.server.port) as front, moved(place, front.port, EAGER, monkeypatch) as store:
        absent = store.capabilities.can_put_if_absent
        if large and not absent:
            pytest.skip("nothing tries a large put again")
        front.add(Fault(times=1, match=LAST_WORD[place.name][large], lose=True))
        source = (data[at : at + 700_001] for at in range(0, len(data), 700_001)) if large else data
        assert store.put(KEY, source, if_absent=absent).size == len(data)
        assert front.hits == 1
        assert store.get(KEY) == data
        if absent:
            front.add(Fault(times=1, match=LAST_WORD[place.name][large], lose=True))
            with pytest.raises(AlreadyExists):  # somebody else's, of the same size
                store.put(KEY, data[::-1], if_absent=True)
            assert store.get(KEY) == data


KEPT = ("sftp", "nats", "webdav", "oss")
"""Servers that hold their data over ``kill -9``."""


@contextmanager
def own_server(kind: str, folder: Path) -> Iterator[Any]:
    module, name = SERVERS[kind]
    daemon = getattr(importlib.import_module(module), name)(folder)
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()


@pytest.mark.server
@pytest.mark.parametrize("name", [pytest.param(k, marks=pytest.mark.xdist_group(k)) for k in KEPT])
def test_killed_and_started_again(name: str, tmp_path: Path) -> None:
    with own_server(name, tmp_path / "server") as daemon:
        patient = RetryPolicy(attempts=10**6, base_delay=0.1, max_delay=0.5, deadline=90)
        with open_store(daemon.url("place"), dict(daemon.options), retry=patient) as store:
            store.put(KEY, DATA)
            for second in range(3):
                daemon.kill()
                again = threading.Timer(0.5, daemon.start)
                again.start()
                try:
                    assert store.get(KEY, second, 1000) == DATA[second : second + 1000]
                    other = f"ltx/1/{second:016x}-{second:016x}.ltx"
                    store.put(other, DATA)
                    assert store.get(other) == DATA
                finally:
                    again.join()
            assert len(list(store.list("ltx/1/"))) == 3


@pytest.mark.server
@pytest.mark.parametrize("name", [pytest.param(k, marks=pytest.mark.xdist_group(k)) for k in KEPT])
def test_a_killed_server_under_load_loses_nothing_acknowledged(name: str, tmp_path: Path) -> None:
    with own_server(name, tmp_path / "server") as daemon:
        patient = RetryPolicy(attempts=10**6, base_delay=0.1, max_delay=0.5, deadline=90)
        stored: list[str] = []
        with open_store(daemon.url("place"), dict(daemon.options), retry=patient) as store:
            store.put("ltx/9/0000000000000001-0000000000000001.ltx", b"first")

            def write() -> None:
                for number in range(1, 60):
                    key = f"ltx/0/{number:016x}-{number:016x}.ltx"
                    store.put(key, DATA[: number * 1000])
                    stored.append(key)

            writer = threading.Thread(target=write)
            writer.start()
            while len(stored) < 20:
                time.sleep(0.005)
            daemon.kill()
            daemon.start()
            writer.join(120)
            assert len(stored) == 59
            for number, key in enumerate(stored, 1):
                assert store.get(key) == DATA[: number * 1000]
            assert [info.key for info in store.list("ltx/0/")] == stored


@pytest.mark.server
@pytest.mark.parametrize("name", [pytest.param(k, marks=pytest.mark.xdist_group(k)) for k in KEPT])
def test_a_paused_server_ends_in_time_and_comes_back(name: str, tmp_path: Path) -> None:
    with own_server(name, tmp_path / "server") as daemon:
        policy = RetryPolicy(attempts=2, base_delay=0.1, deadline=2)
        with open_store(daemon.url("place"), dict(daemon.options), retry=policy) as store:
            store.put(KEY, DATA)
            daemon.pause()
            time.sleep(0.5)  # its threads stop one after another
            try:
                begun = time.monotonic()
                with pytest.raises(VfsstreamError) as caught:
                    store.get(KEY)
                assert time.monotonic() - begun < 25
                assert not isinstance(caught.value, NotFound)
            finally:
                daemon.resume()
            assert store.get(KEY) == DATA
