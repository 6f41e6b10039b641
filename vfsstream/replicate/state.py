"""The record beside the local files: where exactly in the log the newest one ends. A hint, bound to that file.

Without it (Litestream wrote the newest file, or the record was lost) the header of that file says as much, except
the checksum bytes that make the position provable at once.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

from vfsstream.replicate.decide import Captured
from vfsstream.replicate.localfiles import disk_errors
from vfsstream.stores.smallfile import replace_file

__all__ = ["StateRecord"]


class StateRecord:
    """The record in a meta directory's own folder.

    Args:
        directory: the folder.
    """

    def __init__(self, directory: Path) -> None:
        self.path = directory / "state.json"

    def save(self, captured: Captured, file_checksum: int) -> None:
        """Remember ``captured``, valid only with the file of its TXID that has this file checksum."""
        record = {
            "txid": captured.txid,
            "file_checksum": f"{file_checksum:016x}",
            "page_size": captured.page_size,
            "commit": captured.commit,
            "salts": captured.salts.hex(),
            "end": captured.end,
            "checksum": captured.checksum.hex() if captured.checksum is not None else None,
            "identity": captured.identity,
        }
        with disk_errors("write", self.path):
            replace_file(self.path, json.dumps(record).encode())

    def load(self, txid: int, file_checksum: int) -> Captured | None:
        """The record of this very file, or ``None``."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            record = json.loads(self.path.read_bytes())
            if record["txid"] != txid or int(record["file_checksum"], 16) != file_checksum:
                return None
            checksum = record["checksum"]
            return Captured(
                txid=txid,
                page_size=int(record["page_size"]),
                commit=int(record["commit"]),
                salts=bytes.fromhex(record["salts"]),
                end=int(record["end"]),
                checksum=bytes.fromhex(checksum) if checksum is not None else None,
                identity=(int(record["identity"][0]), int(record["identity"][1])),
            )
        return None

    def last_txid(self) -> int:
        """The TXID it speaks of, whatever became of the file; 0 when there is none."""
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            return int(json.loads(self.path.read_bytes())["txid"])
        return 0

    def forget(self) -> None:
        """Delete the record."""
        with disk_errors("delete", self.path):
            self.path.unlink(missing_ok=True)
