"""The environment of every program that is measured."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["ROOT", "environment"]

ROOT = Path(__file__).resolve().parent.parent

# Litestream's S3 client refuses to start with the first. With the second, Python compiles a program anew at each
# start, which no installed one does.
_UNWANTED = ("AWS_CA_BUNDLE", "PYTHONDONTWRITEBYTECODE")


def environment(**more: str) -> dict[str, str]:
    """This process's, with keys for a server of ours, and what is given."""
    found = {name: value for name, value in os.environ.items() if name not in _UNWANTED}
    keys = {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench-secret"}
    return {**found, **keys, "LITESTREAM_LOG_FILE": os.devnull, "PYTHONPATH": str(ROOT), **more}
