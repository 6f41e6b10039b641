"""The text of a configuration file: environment expansion, and YAML composed to nodes that know their lines."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

from vfsstream.errors import ConfigError

__all__ = ["compose", "expand"]

_VARIABLE = re.compile(r"\$(?:\$|\{([^}]*)\}|([A-Za-z_][A-Za-z0-9_]*)|[0-9*#@!?-])")
MAX_DEPTH = 50


def expand(text: str, environ: Mapping[str, str]) -> str:
    """Replace ``$NAME``, ``${NAME}``, ``${NAME:-default}`` and ``$PID``; ``$$`` is one dollar sign.

    An unset name becomes empty, as in Litestream; comments are expanded too. A ``$`` before anything else stays.
    """

    def value(match: re.Match[str]) -> str:
        if match[0] == "$$":
            return "$"
        name, separator, default = (match[1] or match[2] or "").partition(":-")
        if name == "PID":
            return str(os.getpid())
        return environ.get(name) or default if separator else environ.get(name, "")

    return _VARIABLE.sub(value, text)


def compose(text: str, path: str) -> Any:
    """The first document as a node, or ``None`` when there is nothing in it.

    Raises:
        ConfigError: not YAML; the line is named, the text (which may hold secrets) is not shown.
    """
    import yaml

    loader_class = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        loader = loader_class(text)
        try:
            if not loader.check_node():
                return None
            node = loader.get_node()
        finally:
            loader.dispose()
        _check_depth(node, path, (), set())
        return node
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        raise ConfigError(f"not valid YAML: {_problem(error.problem)}", path=path, line=line) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError("a character that YAML does not allow", path=path, line=line) from None
    except (RecursionError, ValueError, AttributeError):
        raise ConfigError("not valid YAML: nested too deeply", path=path, line=1) from None


def _problem(text: str | None) -> str:
    # Quoted parts may be values, and so secrets.
    return re.sub(r"'[^']*'|\"[^\"]*\"", "…", text or "cannot be read") if text and len(text) > 60 else text or ""


def _check_depth(node: Any, path: str, above: tuple[int, ...], done: set[int]) -> None:
    line = node.start_mark.line + 1
    if id(node) in above:
        raise ConfigError("an anchor that contains itself", path=path, line=line)
    if len(above) > MAX_DEPTH:
        raise ConfigError("nested too deeply", path=path, line=line)
    if id(node) in done or not isinstance(node.value, list):
        return
    for item in node.value:
        for child in item if isinstance(item, tuple) else (item,):
            _check_depth(child, path, (*above, id(node)), done)
    done.add(id(node))
