"""Go's flag grammar, row by row; where a row can be asked of the real program, it was."""

from __future__ import annotations

from typing import Any

import click
import pytest

from vfsstream.cli.grammar import GoCommand, argument, flag, nearest, option
from vfsstream.cli.types import INTEGER


@click.command(cls=GoCommand)
@option("o", str)
@option("txid", str)
@option("count", INTEGER)
@flag("force", "")
@flag("f", "")
@argument("words", "WORD", many=True)
def sample(**values: Any) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value not in (None, False, ())}


def parse(*words: str) -> dict[str, Any]:
    result: dict[str, Any] = sample.main(list(words), standalone_mode=False)
    return result


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-txid X", {"txid": "X"}),
        ("--txid X", {"txid": "X"}),
        ("-txid=X", {"txid": "X"}),
        ("--txid=X=Y", {"txid": "X=Y"}),
        ("-o PATH", {"o": "PATH"}),
        ("-o=PATH", {"o": "PATH"}),
        ("--o=PATH", {"o": "PATH"}),
        ("-o -f", {"o": "-f"}),
        ("-txid -force x", {"txid": "-force", "words": ("x",)}),
        ("-txid=", {"txid": ""}),
        ("-o=", {"o": ""}),
        ("-force", {"force": True}),
        ("-force=true", {"force": True}),
        ("-force=1", {"force": True}),
        ("-force=T", {"force": True}),
        ("-force=false", {}),
        ("-force -force=F", {}),
        ("--force=0", {}),
        ("-f=true", {"f": True}),
        ("-f -f=0", {}),
        ("-force true", {"force": True, "words": ("true",)}),
        ("-o a -o b", {"o": "b"}),
        ("-- -force", {"words": ("-force",)}),
        ("-", {"words": ("-",)}),
        ("x -force", {"force": True, "words": ("x",)}),
        ("x -o y z", {"o": "y", "words": ("x", "z")}),
        ("-count 8", {"count": 8}),
        ("-count -1", {"count": -1}),
        ("-count +4", {"count": 4}),
        ("-count 0x8", {"count": 8}),
        ("-count 0b11", {"count": 3}),
        ("-count 017", {"count": 15}),
        ("-count 1_0", {"count": 10}),
    ],
)
def test_accepted(line: str, expected: dict[str, Any]) -> None:
    assert parse(*line.split(" ")) == expected


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ("---txid X", "bad flag syntax"),
        ("-=x", "bad flag syntax"),
        ("-txi X", "unknown flag -txi; did you mean -txid?"),
        ("-fo", "unknown flag -fo"),
        ("-oout", "unknown flag -oout"),
        ("-bogus", "unknown flag -bogus"),
        ("--forse", "did you mean -force?"),
        ("-no-force", "unknown flag -no-force"),
        ("-force=yes", "invalid boolean 'yes'"),
        ("-force=tRUE", "invalid boolean"),
        ("-txid", "needs a value"),
        ("-count 1.5", "invalid integer"),
        ("-count ''", "invalid integer"),
        ("-count 08", "invalid integer"),
    ],
)
def test_refused(line: str, word: str) -> None:
    with pytest.raises(click.UsageError) as caught:
        parse(*line.split(" "))
    assert word in caught.value.format_message()


@pytest.mark.parametrize("word", ["-h", "-help", "--help", "--h", "-help=true"])
def test_help_goes_to_stdout(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sample.main([word], standalone_mode=False) == 0
    out, err = capsys.readouterr()
    assert "  -txid TXID\n" in out
    assert "One dash or two are the same" in out
    assert "no-force" not in out
    assert not err


def test_nearest_spelling() -> None:
    assert nearest("restroe", ["restore", "replicate"]) == "restore"
    assert nearest("zzz", ["restore"]) is None
