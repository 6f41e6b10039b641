"""Optional packages: found without importing them, so that no SDK is loaded before its URL is used."""

from __future__ import annotations

import importlib.util

from vfsstream.errors import MissingExtra

__all__ = ["require"]


def require(module: str, extra: str, what: str) -> None:
    """Check that ``module`` can be imported, without importing it.

    Args:
        module: dotted name, as ``"google.cloud.storage"``.
        extra: the extra that brings it, as ``"gcs"``.
        what: what needs it, as ``"gs:// replicas"``.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        found = importlib.util.find_spec(module)
    except ModuleNotFoundError:  # a parent package is missing
        found = None
    if found is None:
        raise MissingExtra(extra, what)
