"""Logging as the environment asks for it: ``LITESTREAM_LOG_LEVEL`` and ``LITESTREAM_LOG_FILE``."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from vfsstream.errors import OptionError

__all__ = ["apply_environment"]

_handlers: dict[str, logging.Handler] = {}


def apply_environment(environment: Mapping[str, str]) -> None:
    """Set level and file of the logger ``vfsstream``. Without these variables nothing is touched.

    Raises:
        OptionError: the file cannot be opened.
    """
    level, path = environment.get("LITESTREAM_LOG_LEVEL"), environment.get("LITESTREAM_LOG_FILE")
    logger = logging.getLogger("vfsstream")
    if level:
        logger.setLevel(logging.DEBUG if level.upper() == "DEBUG" else logging.INFO)
    if path and path not in _handlers:
        try:
            handler = logging.FileHandler(path)
        except OSError as error:
            raise OptionError(f"LITESTREAM_LOG_FILE={path}: {error.strerror}") from error
        handler.setFormatter(logging.Formatter('time=%(asctime)s level=%(levelname)s msg="%(message)s"'))
        logger.addHandler(handler)
        _handlers[path] = handler
