"""From nodes, or environment variables, to the dataclasses of the schema: every value checked where it stands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from vfsstream.config.kinds import STRINGS, Key
from vfsstream.config.schema import LISTS, SECTIONS, Config, Section, keys
from vfsstream.config.values import format_duration
from vfsstream.errors import ConfigError

__all__ = ["PREFIX", "apply_environment", "build", "suggest"]

PREFIX = "VFSSTREAM__"
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_OLD_KEYS = {
    "retention": "snapshot.retention at the top level",
    "retention-check-interval": "l0-retention-check-interval at the top level",
    "snapshot-interval": "snapshot.interval at the top level",
    "max-checkpoint-page-count": "truncate-page-n",
    "shadow-retention-count": "nothing: the shadow WAL is gone",
    "access-key": "access-key-id",
}


@dataclass(frozen=True)
class Place:
    """Where we are in the file: for messages."""

    path: str | None
    line: int | None
    dotted: str = ""

    def under(self, name: str, line: int | None = None) -> Place:
        """A key below this place."""
        joined = f"{self.dotted}{name}" if name.startswith("[") else f"{self.dotted}.{name}".lstrip(".")
        return Place(self.path, self.line if line is None else line, joined)

    def error(self, message: str, hint: str | None = None) -> ConfigError:
        """The error of this place."""
        from vfsstream.config.secrets import redact

        return ConfigError(redact(message), path=self.path, line=self.line, key=self.dotted or None, hint=hint)


def suggest(name: str, known: Iterable[str]) -> str | None:
    """The hint for an unknown key."""
    import difflib

    plain = name.lower().replace("_", "-")
    found = difflib.get_close_matches(plain, list(known), n=1, cutoff=0.6)
    if found:
        return f"did you mean {found[0]}?"
    old = difflib.get_close_matches(plain, _OLD_KEYS, n=1, cutoff=0.8)
    return f"it is now {_OLD_KEYS[old[0]]}" if old else None


def build(node: Any, path: str) -> Config:
    """The configuration that a document states.

    Raises:
        ConfigError: an unknown key, a key given twice, a value of the wrong kind.
    """
    config = Config(file=path)
    if node is not None and not _is_null(node):
        _fill(config, node, Place(path, node.start_mark.line + 1))
    return config


def _fill(section: Section, node: Any, place: Place) -> None:
    if not node.tag.endswith(":map") or not _is_mapping(node):
        raise place.error("expected keys and values")
    section.line = node.start_mark.line + 1
    known = {name: (attribute, key) for attribute, name, key in keys(type(section))}
    for key_node, value in _items(node, place):
        name, line = str(key_node.value), key_node.start_mark.line + 1
        here = place.under(name, line)
        if name not in known:
            raise here.error("unknown key", hint=_elsewhere(name) or suggest(name, known))
        attribute, key = known[name]
        if not _is_null(value):
            setattr(section, attribute, _value(name, key, value, here))
            section.lines[name] = line


def _elsewhere(name: str) -> str | None:
    if name in _OLD_KEYS:
        return suggest(name, ())
    for owner, section in (("", Config), *((f"{word}.", kind) for word, kind in {**SECTIONS, **LISTS}.items())):
        if any(name == known for _, known, _ in keys(section)):
            return f"it belongs to {owner or 'the top level'}".rstrip(".")
    return None


def _value(name: str, key: Key, node: Any, place: Place) -> Any:
    if name in LISTS:
        return _list(LISTS[name], node, place)
    if name in SECTIONS and key.kind is None:
        section = SECTIONS[name]()
        _fill(section, node, place)
        return section
    if key.kind is STRINGS:
        if not _is_sequence(node):
            raise place.error("expected a list")
        return [_scalar(key, item, place.under(f"[{index}]")) for index, item in enumerate(node.value)]
    return _scalar(key, node, place)


def _list(section: type[Section], node: Any, place: Place) -> list[Section]:
    if not _is_sequence(node):
        raise place.error("expected a list")
    result = []
    for index, item in enumerate(node.value):
        here = place.under(f"[{index}]", item.start_mark.line + 1)
        if _is_null(item):
            raise here.error("an empty entry")
        made = section()
        _fill(made, item, here)
        result.append(made)
    return result


def _scalar(key: Key, node: Any, place: Place) -> Any:
    if not isinstance(node.value, str):
        assert key.kind is not None
        raise place.error(
            f"expected one value ({key.kind.word}), found {'a list' if _is_sequence(node) else 'keys'}"
        )
    if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.endswith(":binary"):
        raise place.error(f"unknown tag {node.tag}")
    return convert(key, node.value, _plain(node), place)


def _plain(node: Any) -> bool:
    return node.style is None or node.style == ""


def convert(key: Key, text: str, plain: bool, place: Place) -> Any:
    """One value, checked against its key."""
    assert key.kind is not None
    try:
        value = key.kind.convert(text, plain)
    except ValueError as error:
        reason = str(error)
        message = f"not a {key.kind.word}" if key.secret else reason
        if not key.secret and repr(text) not in reason and len(text) < 80:
            message = f"{text!r}: {reason}"
        raise place.error(message) from None
    _check_range(key, value, place)
    if key.choices and value.lower() not in key.choices:
        hint = suggest(value, key.choices) or f"one of: {' '.join(key.choices)}"
        raise place.error(f"unknown value {value!r}", hint=hint)
    return value.lower() if key.choices else value


def _check_range(key: Key, value: Any, place: Place) -> None:
    if key.above is None or value > key.above or (key.inclusive and value == key.above):
        return
    limit = format_duration(key.above) if isinstance(key.above, timedelta) else key.above
    found = format_duration(value) if isinstance(value, timedelta) else value
    raise place.error(f"must be {'at least' if key.inclusive else 'greater than'} {limit}, found {found}")


def _items(node: Any, place: Place) -> list[tuple[Any, Any]]:
    """Keys and values; those of ``<<`` merges first and only where the mapping has none of its own."""
    merged: dict[str, tuple[Any, Any]] = {}
    own: dict[str, tuple[Any, Any]] = {}
    for key_node, value in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node.value, str):
            raise place.under("?", line).error("a key must be a word")
        if key_node.tag.endswith(":merge"):
            for source in value.value if _is_sequence(value) else [value]:
                if not _is_mapping(source):
                    raise place.under("<<", line).error("expected keys and values to merge")
                for pair in _items(source, place):
                    merged.setdefault(pair[0].value, pair)
        elif key_node.value in own:
            first = own[key_node.value][0].start_mark.line + 1
            raise place.under(key_node.value, line).error(f"given twice; first in line {first}")
        else:
            own[key_node.value] = (key_node, value)
    return list({**merged, **own}.values())


def _is_mapping(node: Any) -> bool:
    return type(node).__name__ == "MappingNode"


def _is_sequence(node: Any) -> bool:
    return type(node).__name__ == "SequenceNode"


def _is_null(node: Any) -> bool:
    return isinstance(node.value, str) and _plain(node) and node.value in _NULL


def apply_environment(config: Config, environ: Mapping[str, str]) -> None:
    """Set keys from ``VFSSTREAM__SECTION__KEY`` variables; they win over the file. List entries are numbers.

    Raises:
        ConfigError: a variable that names no key, or a value of the wrong kind.
    """
    for variable in sorted(environ):
        if variable.startswith(PREFIX):
            words = variable[len(PREFIX) :].lower().replace("_", "-").split("--")
            _set(config, words, environ[variable], Place(None, None, variable))


def _set(section: Any, words: list[str], text: str, place: Place) -> None:
    name, rest = words[0], words[1:]
    known = {known: (attribute, key) for attribute, known, key in keys(type(section))}
    if name not in known:
        raise place.error("names no key of the configuration", hint=suggest(name, known))
    attribute, key = known[name]
    section.lines.setdefault(name, 0)
    if name in LISTS:
        entry, rest = _entry(section, attribute, name, rest, place)
        _set(entry, rest, text, place)
    elif key.kind is None:
        if getattr(section, attribute) is None:
            setattr(section, attribute, SECTIONS[name]())
        if not rest:
            raise place.error("names a section, not a key")
        _set(getattr(section, attribute), rest, text, place)
    elif rest:
        raise place.error("names no key of the configuration", hint=f"{name} is a single value")
    elif key.kind is STRINGS:
        setattr(section, attribute, [word.strip() for word in text.split(",") if word.strip()])
    else:
        setattr(section, attribute, convert(key, text, True, place))


def _entry(section: Any, attribute: str, name: str, rest: list[str], place: Place) -> tuple[Section, list[str]]:
    entries = getattr(section, attribute)
    if entries is None:
        entries = []
        setattr(section, attribute, entries)
    if len(rest) < 2 or not rest[0].isdigit() or not rest[0].isascii():
        raise place.error(f"expected a number and a key after {name}", hint=f"{PREFIX}{name.upper()}__0__PATH")
    index = int(rest[0][:9])
    if index > len(entries):
        raise place.error(f"{name} has {len(entries)} entries; the next one is number {len(entries)}")
    if index == len(entries):
        entries.append(LISTS[name]())
    entry: Section = entries[index]
    return entry, rest[1:]
