"""Secrets out of anything that is shown."""

from __future__ import annotations

import re

__all__ = ["redact"]

_USERINFO = re.compile(r"(?<=://)([^/@\s:]*):([^/\s]*)@")
_SECRET_WORDS = (
    r"secret[-_]?access[-_]?key|access[-_]?key[-_]?(?:id|secret)|account[-_]?key|sas[-_]?token|password|passwd"
    r"|token|seed|jwt|nkey|sig|signature|sse[-_]?customer[-_]?key(?:[-_]?md5)?|api[-_]?key|secret|credential"
)
_QUERY = re.compile(rf"(?i)(?<=[?&;])((?:x-amz-)?(?:{_SECRET_WORDS}))=[^&\s'\"]+")
_BEARER = re.compile(r"(?i)(authorization:\s*|bearer\s+)\S+")


def redact(text: str) -> str:
    """The text with the passwords of URLs, secret query parameters and bearer tokens replaced by ``***``."""
    text = _USERINFO.sub(r"\1:***@", text)
    text = _QUERY.sub(r"\1=***", text)
    return _BEARER.sub(r"\1***", text)
