"""Reading needs nothing that only Unix has: with all of it hidden, a replica is opened, read and followed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.vfs.recorder import Recorder, recorder
from tests.vfs.test_defects import filled
from vfsstream.replica import positioned

HIDDEN_MODULES = ("fcntl", "grp", "pwd", "resource", "termios", "tty", "pty", "syslog")
HIDDEN_CALLS = (
    *(
        "fork",
        "forkpty",
        "pread",
        "preadv",
        "pwrite",
        "pwritev",
        "register_at_fork",
        "sendfile",
        "copy_file_range",
    ),
    *("getuid", "geteuid", "getgid", "getegid", "link", "chown", "fchmod", "statvfs", "fstatvfs"),
    *("sched_getaffinity", "posix_fadvise", "posix_fallocate", "O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW"),
)

HIDE = f"""
import os, select, signal, sys
for name in {HIDDEN_MODULES!r}:
    sys.modules[name] = None
for name in {HIDDEN_CALLS!r}:
    if hasattr(os, name):
        delattr(os, name)
os.supports_dir_fd = os.supports_fd = set()
for name in ("poll", "epoll", "kqueue"):
    if hasattr(select, name):
        delattr(select, name)
for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGKILL", "pthread_sigmask"):
    if hasattr(signal, name):
        delattr(signal, name)
import apsw, vfsstream
from vfsstream.vfs.vfs import file_of
from vfsstream.replica.positioned import read_at, _read_at
assert read_at is _read_at
url = sys.argv[1]
"""


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Recorder]:
    for made in recorder(tmp_path):
        filled(made, 400)
        yield made


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HIDE + script, *arguments], capture_output=True, text=True, timeout=120, cwd=ROOT
    )


@pytest.mark.parametrize("prefetch", ["off", "auto"])
def test_a_replica_is_read_without_anything_of_unix(primary: Recorder, prefetch: str, tmp_path: Path) -> None:
    script = f"""
db = vfsstream.connect(url, prefetch={prefetch!r}, cache_dir=sys.argv[2], poll_interval="20ms")
print(db.execute("SELECT count(*), sum(length(body)) FROM t").get, db.pragma("integrity_check"))
db.execute("CREATE TEMP TABLE s AS SELECT * FROM t ORDER BY random()")
db.close()
"""
    done = run(script, primary.url, str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(400, 240000) ok\n"


def test_the_whole_database_streams_to_a_local_file(primary: Recorder) -> None:
    script = """
db = vfsstream.connect(url, prefetch="bulk", cache_size="0", window_budget="0", poll_interval="1h")
source = file_of(db).database.current.source
source.streaming.begin(file_of(db).database.current.view)
print(db.execute("SELECT count(*), sum(length(body)) FROM t").get)
assert source.stats()["streams"] == 1
db.close()
"""
    done = run(script, primary.url)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(400, 240000)\n"


def test_hydration_says_what_it_lacks(primary: Recorder) -> None:
    script = """
try:
    vfsstream.connect(url, hydration_enabled=True)
except vfsstream.errors.OptionError as error:
    print(error)
"""
    done = run(script.replace("vfsstream.errors", "__import__('vfsstream.errors').errors"), primary.url)
    assert done.returncode == 0, done.stderr
    assert "hydration_enabled" in done.stdout
    assert "cache_dir" in done.stdout


def test_the_stores_are_imported_without_anything_of_unix() -> None:
    script = """
import importlib, pkgutil
for package in ("vfsstream.stores", "vfsstream.replica", "vfsstream.ltx", "vfsstream.plan", "vfsstream.vfs"):
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        importlib.import_module(module.name)
print("imported")
"""
    done = run(script, "memory:")
    assert done.returncode == 0, done.stderr


def test_reading_and_writing_at_a_position(tmp_path: Path) -> None:
    handle = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)
    try:
        assert positioned._write_at(handle, b"hello", 10) == 5
        assert positioned._read_at(handle, 3, 12) == b"llo" == positioned.read_at(handle, 3, 12)
        assert positioned._read_at(handle, 100, 13) == b"lo"
        assert positioned._read_at(handle, 5, 100) == b""
    finally:
        os.close(handle)
