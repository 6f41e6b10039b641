"""Every form that Litestream's documentation and shipped examples show: read unchanged, and as Litestream reads it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from vfsstream.config.load import load_text
from vfsstream.config.replicas import open_replica
from vfsstream.errors import ConfigError

EXAMPLES = {
    "comments-only": "# access-key-id: AKIA\n# dbs:\n#  - path: /x\n",
    "one-url": "dbs:\n  - path: /data/app.db\n    replica:\n      url: s3://my-bucket/app\n",
    "folder": "dbs:\n - path: /data/app.db\n   replica:\n     path: /mnt/backup/app\n",
    "global-credentials": (
        'addr: ":9090"\naccess-key-id: ${AWS_ACCESS_KEY_ID}\nsecret-access-key: ${AWS_SECRET_ACCESS_KEY}\n'
        "region: us-east-1\nsync-interval: 1s\n"
        "dbs:\n - path: /data/app.db\n   replica: {type: s3, bucket: backups, path: app, sync-interval: 10s}\n"
    ),
    "every-default": (
        "levels:\n  - interval: 30s\n  - interval: 5m\n  - interval: 1h\n"
        "snapshot:\n  interval:  24h\n  retention: 24h\nl0-retention: 5m\nl0-retention-check-interval: 15s\n"
        "retention:\n  enabled: true\nlogging:\n  level:  info\n  type:   text\n  stderr: false\n  source: false\n"
        "socket:\n  enabled: true\n  path: /var/run/litestream.sock\n  permissions: 0600\n"
        "shutdown-sync-timeout: 30s\nshutdown-sync-interval: 100ms\n"
        "heartbeat-url: https://hc.example/ping/id\nheartbeat-interval: 5m\n"
        'exec: "/usr/bin/myapp serve --port 8080"\n'
        "dbs:\n  - path: /data/app.db\n    restore-if-db-not-exists: true\n    replica: {url: s3://b/app}\n"
    ),
    "one-database-tuned": (
        "dbs:\n  - path: /data/app.db\n    monitor-interval: 10ms\n    checkpoint-interval: 1m\n"
        "    min-checkpoint-page-count: 1000\n    busy-timeout: 5s\n"
        "    replica:\n      url: s3://b/app\n      access-key-id: ${AWS_ACCESS_KEY_ID}\n"
        "      secret-access-key: ${AWS_SECRET_ACCESS_KEY}\n      region: us-west-2\n      sync-interval: 1s\n"
    ),
    "legacy-list": "dbs:\n  - path: /data/app.db\n    replicas:\n      - url: s3://b/app\n",
    "r2": 'dbs:\n  - path: /a.db\n    replica: {url: "s3://b/p?endpoint=account.r2.cloudflarestorage.com"}\n',
    "tigris": 'dbs:\n  - path: /a.db\n    replica: {url: "s3://b/p?endpoint=fly.storage.tigris.dev&region=auto"}\n',
    "minio": "dbs:\n  - path: /a.db\n    replica:\n      url: s3://b/p?endpoint=localhost:9000&skipVerify=true\n",
    "minio-host": "dbs:\n  - path: /a.db\n    replica:\n      url: s3://b.localhost:9000/p\n",
    "gcs": "dbs:\n  - path: /a.db\n    replica:\n      url: gs://my-bucket/backups/app\n",
    "azure": (
        "dbs:\n  - path: /a.db\n    replica:\n      url: abs://container@account/path\n"
        "      account-name: account\n      account-key: a2V5\n"
    ),
    "sftp": (
        "dbs:\n  - path: /a.db\n    replica:\n      url: sftp://user@backup.example.com:22/backups/app\n"
        "      key-path: /etc/litestream/sftp_key\n"
        "      host-key: ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMvvypUkBrS9RCyV//p+UFCLg8yKNtTu/ew/cV6XXAAP\n"
    ),
    "nats-bucket-in-url": (
        "dbs:\n  - path: /a.db\n    replica: {url: 'nats://nats.example.com:4222/backups', username: u, password: p}\n"
    ),
    "nats-bucket-beside-url": (
        "dbs:\n  - path: /a.db\n    replica:\n      type: nats\n      url: nats://nats.example.com:4222\n"
        "      bucket: backups\n      username: u\n      password: p\n      tls: true\n      max-reconnects: -1\n"
        "      reconnect-wait: 2s\n      timeout: 10s\n      sync-interval: 1s\n"
    ),
    "webdav": (
        "dbs:\n  - path: /a.db\n    replica:\n      type: webdav\n      webdav-url: https://dav.example.com\n"
        "      webdav-username: u\n      webdav-password: p\n      path: /backups/app\n"
    ),
    "oss": "dbs:\n  - path: /a.db\n    replica: {url: 'oss://b.oss-cn-hangzhou.aliyuncs.com/app'}\n",
}
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "key", "OSS_ACCESS_KEY_ID": "AKID"}
ENVIRONMENT |= {"OSS_ACCESS_KEY_SECRET": "key"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_is_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in ENVIRONMENT.items():
        monkeypatch.setenv(variable, value)
    config = load_text(EXAMPLES[name], "c.yml", environ=ENVIRONMENT)
    if name not in ("sftp", "gcs"):  # these read the key file or look for the machine's account
        for entry in config.dbs:
            assert entry.replica is not None
            open_replica(config, entry.replica).store.close()


@pytest.mark.interop
@pytest.mark.parametrize("name", EXAMPLES)
def test_litestream_reads_the_same(
    name: str, litestream: str, vfsstream: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    path = tmp_path / "c.yml"
    path.write_text(EXAMPLES[name])
    words = ["databases", "-json", "-config", str(path)]
    environment = {**os.environ, **ENVIRONMENT}
    theirs = subprocess.run(
        [litestream, *words], capture_output=True, text=True, env=environment, timeout=60, check=False
    )
    ours = vfsstream(*words, env=ENVIRONMENT)
    assert (ours.returncode, theirs.returncode) == (0, 0), ours.stderr + theirs.stderr
    shown = theirs.stdout[theirs.stdout.index("[") :] if "[" in theirs.stdout else theirs.stdout
    assert json.loads(ours.stdout) == json.loads(shown)


def test_a_nats_bucket_beside_the_url_is_that_bucket() -> None:
    """Litestream takes this form, which its example shows, and then looks for a bucket named with a dot."""
    config = load_text(EXAMPLES["nats-bucket-beside-url"], "c.yml", environ={})
    assert config.dbs[0].replica is not None
    assert config.dbs[0].replica.url == "nats://nats.example.com:4222/backups"
    twice = EXAMPLES["nats-bucket-beside-url"].replace(":4222\n", ":4222/other\n")
    with pytest.raises(ConfigError, match="url and bucket exclude each other"):
        load_text(twice, "c.yml", environ={})
