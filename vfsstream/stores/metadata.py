"""An object's own time under the name that Litestream gives it in each store's user metadata."""

from __future__ import annotations

from collections.abc import Mapping

from vfsstream.stores.base import TIMESTAMP

__all__ = ["from_store", "to_store"]


def to_store(metadata: Mapping[str, str] | None, time_key: str) -> dict[str, str]:
    """As the store keeps it: the time under ``time_key``, everything else unchanged."""
    return {(time_key if key == TIMESTAMP else key): value for key, value in (metadata or {}).items()}


def from_store(metadata: Mapping[str, str] | None, time_key: str) -> dict[str, str]:
    """As a store gives it back, whatever the case of its keys: lower case, the time under ``TIMESTAMP``."""
    lowered = {key.lower(): value for key, value in (metadata or {}).items()}
    return {(TIMESTAMP if key == time_key else key): value for key, value in lowered.items()}
