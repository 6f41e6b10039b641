"""Click parameter types over the value syntaxes, so an error names the flag and shows an example."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import click

from vfsstream.config import values
from vfsstream.ltx.names import TXID

__all__ = ["DURATION", "INTEGER", "LEVEL", "TIME", "TXID_TYPE"]


class _Parsed(click.ParamType):  # type: ignore[type-arg]
    """A type given by a function of the text; an empty value means that the flag is not set."""

    def parse(self, text: str) -> Any:
        raise NotImplementedError

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self.parse(value)
        except ValueError as error:
            name = param.opts[0] if param and param.opts else "value"
            raise click.UsageError(f"flag {name}: {error}", ctx) from None


class _Txid(_Parsed):
    name = "txid"

    def parse(self, text: str) -> TXID | None:
        return values.parse_txid(text) or None if text else None


class _Time(_Parsed):
    name = "timestamp"

    def parse(self, text: str) -> datetime | None:
        if not text:
            return None
        moment, assumed = values.parse_time(text, datetime.now(UTC))
        if assumed:
            click.echo(
                f"note: no zone in {text!r}, taken as UTC: {moment.isoformat().replace('+00:00', 'Z')}", err=True
            )
        return moment


class _Duration(_Parsed):
    name = "duration"

    def parse(self, text: str) -> timedelta:
        return values.parse_duration(text)


class _Integer(_Parsed):
    name = "number"

    def parse(self, text: str) -> int:
        return values.parse_int(text)


class _Level(_Parsed):
    """Level 0 to 9, or ``all``; ``None`` means all."""

    name = "level"

    def parse(self, text: str) -> int | None:
        if text == "all":
            return None
        if text.isascii() and text.isdigit() and int(text) <= 9:
            return int(text)
        raise ValueError(f"invalid level {text!r}: 0 to 9, or all")


TXID_TYPE = _Txid()
TIME = _Time()
DURATION = _Duration()
INTEGER = _Integer()
LEVEL = _Level()
