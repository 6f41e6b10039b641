"""Ceph's S3 gateway over a monitor and one storage daemon in memory, all unprivileged: a production S3 server."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

from tests.servers.daemon import START_SECONDS, Daemon, find_program, pick_port
from tests.servers.moto import BUCKET

_CONFIG = """\
[global]
fsid = {fsid}
mon host = [v2:127.0.0.1:{mon_port}]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
auth cluster required = none
auth service required = none
auth client required = none
ms mon client mode = crc
ms client mode = crc
ms service mode = crc
ms cluster mode = crc
ms mon cluster mode = crc
ms mon service mode = crc
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd crush chooseleaf type = 0
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail warn = 1
paxos propose interval = 0.05
paxos min wait = 0.01
osd objectstore = memstore
memstore device bytes = 2147483648
rgw num rados handles = 1
rgw gc max objs = 8
rgw lc max objs = 8
run dir = {home}/run
admin socket = {home}/run/$name.asok
log file = {home}/$name.log
mon cluster log file = {home}/cluster.log
crash dir = {home}/crash
mon data = {home}/mon
osd data = {home}/osd
rgw data = {home}/rgw
keyring = {home}/keyring
pid file =
"""


class _Part(Daemon):
    """One of the two daemons behind the gateway."""

    def __init__(self, home: Path, name: str, arguments: list[str], port: int | None = None) -> None:
        super().__init__(home)
        self.name, self.arguments = name, arguments
        if port is not None:
            self.port = port

    def command(self) -> list[str]:
        return self.arguments

    def start(self) -> None:
        if self.name == "ceph-mon":
            super().start()
            return
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self.arguments, stdout=log, stderr=log, stdin=subprocess.DEVNULL)


class Radosgw(Daemon):
    """``kill`` and ``start`` again keep the objects: they lie in the storage daemon, which only ``stop`` ends."""

    name = "radosgw"
    access_key = "AKIDEXAMPLE1"
    secret_key = "SECRETKEY123"

    def __init__(self, home: Path) -> None:
        super().__init__(home)
        self.programs = {name: find_program(name, name) for name in ("ceph-mon", "ceph-osd", "radosgw")}
        self.mon_port = pick_port()
        self.config = home / "ceph.conf"
        self.parts: list[_Part] = []

    def command(self) -> list[str]:
        frontend = f"beast endpoint=127.0.0.1:{self.port} tcp_nodelay=1"
        gateway = [self.programs["radosgw"], "-c", str(self.config), "-f", "-n", "client.rgw"]
        return [*gateway, "--rgw-frontends", frontend]

    def _run(self, *arguments: str) -> str:
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=START_SECONDS, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(arguments)}: {done.stderr[-2000:]}")
        return done.stdout

    def start(self) -> None:
        if not self.parts:
            self._start_cluster()
        super().start()
        config = ["-c", str(self.config)]
        user = ["user", "create", "--uid", "u", "--display-name", "u"]
        keys = ["--access-key", self.access_key, "--secret-key", self.secret_key]
        if not (self.home / "user").exists():
            self._run(find_program("radosgw-admin", "radosgw"), *config, *user, *keys)
            (self.home / "user").touch()
            self.sdk().create_bucket(Bucket=BUCKET)

    def _start_cluster(self) -> None:
        fsid, home, config = str(uuid.uuid4()), self.home, ["-c", str(self.config)]
        for name in ("run", "rgw", "osd", "crash"):
            (home / name).mkdir(exist_ok=True)
        (home / "keyring").touch()
        self.config.write_text(_CONFIG.format(fsid=fsid, home=home, mon_port=self.mon_port))
        mon, osd, ceph = self.programs["ceph-mon"], self.programs["ceph-osd"], find_program("ceph", "ceph-common")
        address = f"[v2:127.0.0.1:{self.mon_port}]"
        monmap = str(home / "monmap")
        tool = find_program("monmaptool", "ceph-common")
        self._run(tool, "--create", "--addv", "a", address, "--fsid", fsid, monmap)
        self._run(mon, *config, "--mkfs", "-i", "a", "--monmap", monmap)
        self.parts.append(_Part(home, "ceph-mon", [mon, *config, "-f", "-i", "a"], self.mon_port))
        self.parts[-1].start()
        identity = str(uuid.uuid4())
        self._run(ceph, *config, "--connect-timeout", "30", "osd", "new", identity)
        self._run(osd, *config, "-i", "0", "--mkfs", "--osd-uuid", identity)
        self.parts.append(_Part(home, "ceph-osd", [osd, *config, "-f", "-i", "0"]))
        self.parts[-1].start()
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if json.loads(self._run(ceph, *config, "osd", "stat", "-f", "json")).get("num_up_osds") == 1:
                return
            time.sleep(0.1)
        raise RuntimeError("the storage daemon of Ceph did not come up")

    def stop(self) -> None:
        super().stop()
        for part in reversed(self.parts):
            part.kill()
        self.parts = []

    def environment(self) -> dict[str, str]:
        return dict(os.environ)

    def sdk(self) -> Any:
        """A plain boto3 client."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{self.port}",
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(s3={"addressing_style": "path"}, max_pool_connections=64),
        )

    def url(self, name: str, port: int | None = None) -> str:
        """The URL of a replica; the keys come with ``options``."""
        return f"s3://{BUCKET}/{name}?endpoint=http://127.0.0.1:{port or self.port}&region=us-east-1"

    @property
    def options(self) -> dict[str, str]:
        return {"access-key-id": self.access_key, "secret-access-key": self.secret_key}

    def litestream(self, name: str, port: int | None = None) -> dict[str, object]:
        """The replica settings of Litestream."""
        return {
            "type": "s3",
            "bucket": BUCKET,
            "path": name,
            "endpoint": f"http://127.0.0.1:{port or self.port}",
            "region": "us-east-1",
            "force-path-style": True,
            **self.options,
        }
