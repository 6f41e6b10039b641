"""One tree of errors, and messages that help."""

from __future__ import annotations

import inspect

import pytest

from vfsstream import errors


def _drawn_tree() -> dict[str, str]:
    """``{class: base}`` as the module's docstring draws it: the depth is the column of the name."""
    bases: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").split("::\n", 1)[1].splitlines():
        words = line.replace("│", " ").replace("├──", "   ").replace("└──", "   ").split()
        if not words or not inspect.isclass(getattr(errors, words[0], None)):
            continue
        column = line.index(words[0])
        while path and path[-1][0] >= column:
            path.pop()
        if path:
            bases[words[0]] = path[-1][1]
        path.append((column, words[0]))
    return bases


def test_the_drawn_tree_is_the_tree() -> None:
    drawn = _drawn_tree()
    assert set(drawn) | {"VfsstreamError"} == set(errors.__all__)
    for name, base in drawn.items():
        assert getattr(errors, name).__bases__[0] is getattr(errors, base), name


def test_every_error_has_one_line_with_its_hint() -> None:
    shown = [
        errors.NotFound("ltx/0/x.ltx", hint="list the replica"),
        errors.AlreadyExists("k"),
        errors.MissingExtra("s3", "s3:// replicas"),
        errors.ConfigError("unknown key", path="a.yml", line=3, key="dbs[0].pth", hint="did you mean path?"),
        errors.LtxError("bad magic", name="L0/x", offset=0),
        errors.DeadlineExceeded("no answer in 30 s"),
        errors.StoreError("HTTP 503", retryable=True),
    ]
    texts = [str(error) for error in shown]
    assert all("\n" not in text for text in texts)
    assert texts[0] == "no such object: ltx/0/x.ltx (list the replica)"
    assert texts[2].endswith("(pip install 'vfsstream[s3]')")
    assert texts[3] == "a.yml:3: dbs[0].pth: unknown key (did you mean path?)"
    assert texts[4] == "L0/x: bad magic at byte 0"


@pytest.mark.parametrize(
    ("error", "builtin"),
    [
        (errors.NotFound("k"), FileNotFoundError),
        (errors.DeadlineExceeded("late"), TimeoutError),
        (errors.UrlError("bad"), ValueError),
        (errors.MissingExtra("s3", "s3"), ImportError),
    ],
)
def test_errors_are_also_what_python_programs_expect(error: Exception, builtin: type[Exception]) -> None:
    assert isinstance(error, builtin)
    assert isinstance(error, errors.VfsstreamError)


def test_retryable_says_whether_again_may_help() -> None:
    assert errors.DeadlineExceeded("late").retryable
    assert not errors.AccessDenied("no").retryable
    assert not errors.StoreError("no").retryable
