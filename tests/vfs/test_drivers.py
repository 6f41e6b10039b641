"""The standard library's sqlite3, SQLAlchemy, Django and Datasette on a replica."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import vfsstream.sqlite3
from tests.conftest import ROOT
from tests.vfs.recorder import Recorder, recorder
from tests.vfs.test_defects import filled
from vfsstream.errors import OptionError, ReplicaEmpty
from vfsstream.vfs.connect import database_uri

pytestmark = pytest.mark.modes


@pytest.fixture
def primary(tmp_path: Path) -> Iterator[Recorder]:
    for made in recorder(tmp_path):
        filled(made)
        yield made


def run(script: str, *arguments: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_standard_library_reads_follows_and_travels(primary: Recorder) -> None:
    db = vfsstream.sqlite3.connect(primary.url, poll_interval="1h")
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert db.execute("SELECT count(*) FROM t").fetchone() == (200,)
    version = db.execute("PRAGMA data_version").fetchone()
    primary.commit("UPDATE t SET v = 1")
    assert db.execute("PRAGMA litestream_refresh").fetchone() == (f"{primary.txid:016x}",)
    assert db.execute("SELECT DISTINCT v FROM t").fetchall() == [(1,)]
    assert db.execute("PRAGMA data_version").fetchone() != version
    assert db.execute("SELECT litestream_txid()").fetchone() == (f"{primary.txid:016x}",)
    assert db.execute("PRAGMA litestream_time='LATEST'").fetchall() == [("latest",)]  # no MemoryError
    with pytest.raises(sqlite3.OperationalError, match="invalid timestamp 'neither'"):
        db.execute("PRAGMA litestream_time='neither'")
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        db.execute("CREATE TABLE x(a)")
    db.close()


def test_the_plain_way_to_open_and_what_else_stays_plain(primary: Recorder, tmp_path: Path) -> None:
    vfsstream.sqlite3.register()
    db = sqlite3.connect(database_uri(primary.url), uri=True)
    assert db.execute("SELECT count(*) FROM t").fetchone() == (200,)
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE o(a)")
    other.close()
    db.execute("ATTACH ? AS o", (str(tmp_path / "other.db"),))
    assert db.execute("SELECT count(*) FROM o.o").fetchone() == (0,)
    db.close()


def test_causes_of_failed_opens(primary: Recorder) -> None:
    with pytest.raises(ReplicaEmpty):
        vfsstream.sqlite3.connect(primary.url + "-nowhere")
    with pytest.raises(OptionError, match="poll_interval"):
        vfsstream.sqlite3.connect(primary.url, poll_interval="0s")
    vfsstream.sqlite3.register()
    with pytest.raises(sqlite3.OperationalError, match="unable to open"):
        sqlite3.connect(database_uri(primary.url + "-nowhere"), uri=True).execute("SELECT 1")
    assert isinstance(vfsstream.sqlite3.last_error(), ReplicaEmpty)


def test_a_process_that_leaves_connections_open_ends_well(primary: Recorder) -> None:
    script = """
import sys, threading, vfsstream.sqlite3
here = vfsstream.sqlite3.connect(sys.argv[1])
there = []
thread = threading.Thread(target=lambda: there.append(vfsstream.sqlite3.connect(sys.argv[1])))
thread.start(); thread.join()
print(here.execute("SELECT count(*) FROM t").fetchone()[0])
"""
    assert run(script, primary.url) == "200\n"


def test_sqlalchemy(primary: Recorder) -> None:
    script = """
import sys, sqlalchemy, vfsstream.sqlite3
from vfsstream.vfs.connect import database_uri
vfsstream.sqlite3.register()
engine = sqlalchemy.create_engine("sqlite:///" + database_uri(sys.argv[1]) + "&uri=true")
with engine.connect() as connection:
    table = sqlalchemy.Table("t", sqlalchemy.MetaData(), autoload_with=engine)
    query = sqlalchemy.select(table.c.id).where(table.c.id < 4).order_by(table.c.id.desc())
    print([row.id for row in connection.execute(query)])
engine.dispose()
"""
    assert run(script, primary.url) == "[3, 2, 1]\n"


def test_a_django_list_view(primary: Recorder) -> None:
    script = """
import sys, vfsstream.sqlite3
from vfsstream.vfs.connect import database_uri
vfsstream.sqlite3.register()
from django.conf import settings
settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": database_uri(sys.argv[1]),
                           "OPTIONS": {"uri": True}}},
    ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="test",
    TEMPLATES=[{"BACKEND": "django.template.backends.django.DjangoTemplates", "OPTIONS": {"loaders": [
        ("django.template.loaders.locmem.Loader",
         {"list.html": "{% for o in object_list %}{{ o.id }} {% endfor %}"})]}}],
)
import django
django.setup()
from django.db import models
from django.urls import path
from django.views.generic import ListView
class Row(models.Model):
    v = models.IntegerField()
    class Meta:
        app_label, db_table, managed = "app", "t", False
rows = Row.objects.filter(id__lte=3).order_by("id")
urlpatterns = [path("", ListView.as_view(queryset=rows, template_name="list.html"))]
from django.test import Client
print(Client().get("/").content.decode())
"""
    assert run(script, primary.url) == "1 2 3 \n"


def test_datasette(primary: Recorder) -> None:
    script = """
import asyncio, sqlite3, sys, vfsstream.sqlite3
from datasette.app import Datasette
from datasette.database import Database
from vfsstream.vfs.connect import database_uri
vfsstream.sqlite3.register()
class Replica(Database):
    def connect(self, write=False):
        return sqlite3.connect(database_uri(sys.argv[1]), uri=True, check_same_thread=False)
async def main():
    datasette = Datasette(memory=True)
    datasette.add_database(Replica(datasette, is_mutable=True, memory_name="replica"), name="replica")
    answer = await datasette.client.get("/replica.json?sql=select+count(*)+as+n+from+t&_shape=array")
    print(answer.json())
asyncio.run(main())
"""
    assert run(script, primary.url) == "[{'n': 200}]\n"
