"""The reference table of the configuration, made from the schema."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, fields
from datetime import timedelta
from typing import Any

from vfsstream.config.build import PREFIX
from vfsstream.config.schema import LISTS, SECTIONS, Config, Section, StoreKeys, key_of, yaml_name
from vfsstream.config.values import format_duration

__all__ = ["markdown", "rows"]

Row = tuple[str, str, str, str, str]
"""Key, type, default, meaning, environment variable."""


def rows() -> list[Row]:
    """One row per key; keys of storage once, below ``replica``."""
    return list(_rows(Config, "", skip=StoreKeys))


def _rows(section: type[Section], prefix: str, skip: type[Section] | None = None) -> Iterator[Row]:
    skipped = {item.name for item in fields(skip)} if skip else set()
    for item in fields(section):
        key = key_of(item)
        if key is None or item.name in skipped:
            continue
        name = yaml_name(item.name)
        dotted = f"{prefix}{name}"
        if name == "replicas":
            yield dotted, "list", "", key.doc, ""
        elif name in LISTS:
            yield dotted, "list", key.shown or "", key.doc, ""
            yield from _rows(LISTS[name], f"{dotted}[].")
        elif key.kind is None:
            yield from _rows(SECTIONS[name], f"{dotted}.")
        else:
            doc = f"{key.doc} ({', '.join(key.choices)})" if key.choices else key.doc
            yield dotted, key.kind.word, _default(item, key.shown), doc, variable(dotted)


def _default(item: Any, shown: str | None) -> str:
    if shown is not None:
        return shown
    value = None if item.default is MISSING else item.default
    if isinstance(value, timedelta):
        return format_duration(value)
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def variable(dotted: str) -> str:
    """The environment variable of a key; lists count from 0."""
    return PREFIX + dotted.replace("[]", ".0").replace("-", "_").replace(".", "__").upper()


def markdown() -> str:
    """The table in Markdown."""
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for dotted, kind, default, doc, _ in rows():
        shown = f"`{default}`" if default else ""
        lines.append(f"| `{dotted}` | {kind} | {shown} | {doc.replace('|', '&#124;')} |")
    return "\n".join(lines) + "\n"
