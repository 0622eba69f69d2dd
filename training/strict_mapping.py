"""Dataclasses from what YAML gives; nothing unknown passes, and nothing is guessed.

A number has the range that its field's type says: ``steps: Count``, ``lr: Above0``.
"""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeVar

import yaml

from semantic_matcher_core.errors import ConfigError, ImageError, did_you_mean
from semantic_matcher_core.io.images import read_bytes

_Section = TypeVar("_Section")


class Range(NamedTuple):
    """What a number may be: from ``low`` to ``high``, or above ``low`` where that is ``open``."""

    low: float = -math.inf
    high: float = math.inf
    open: bool = False

    def __contains__(self, value: Any) -> bool:
        return (value > self.low if self.open else value >= self.low) and value <= self.high

    def __str__(self) -> str:
        if self.open:
            return f"above {self.low:g}" + (f", at most {self.high:g}" if self.high < math.inf else "")
        return f"from {self.low:g} {'up' if self.high == math.inf else f'to {self.high:g}'}"


Count = Annotated[int, Range(1)]
From0 = Annotated[int, Range(0)]
Above0 = Annotated[float, Range(0, open=True)]
Weight = Annotated[float, Range(0)]
Share = Annotated[float, Range(0, 1)]


def from_mapping(kind: type[_Section], content: Any) -> _Section:
    """Return a dataclass from nested plain containers, as YAML gives them.

    Args:
        kind: a dataclass; fields that are dataclasses are sections.
        content: keys and values; ``None`` for none.

    Raises:
        ConfigError: a key is unknown (the message has the nearest known one) or missing, or a value has the wrong type
            or is out of range.
    """
    return _section(kind, content, "", kind)


def load_dataclass(kind: type[_Section], path: str | Path, overrides: Sequence[str] = ()) -> _Section:
    """Run :func:`from_mapping` on a YAML file.

    Args:
        kind: a dataclass.
        path: the file.
        overrides: ``section.key=value``, the value being YAML; later ones win.

    Raises:
        ConfigError: the file cannot be read, a key is unknown (the message has the nearest known one) or there twice,
            a value has the wrong type or is out of range, or an override is no ``key=value``.
    """
    try:
        content = yaml.load(read_bytes(path, "configuration").decode("utf-8"), _Loader)  # noqa: S506
    except ImageError as error:
        raise ConfigError(str(error)) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"cannot read {path}: {error}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold keys and values, got {type(content).__name__}")
    for override in overrides:
        _override(content, override)
    try:
        return from_mapping(kind, content)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


class _Loader(yaml.SafeLoader):
    """Refuses what YAML forbids and PyYAML lets pass: the same key twice, of which the last would win."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        # Before keys of other mappings are merged into it (<<), which its own may replace.
        node = super().compose_mapping_node(anchor)
        seen: set[str] = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value!r} is there twice", key.start_mark
                )
            seen.add(str(key.value))
        return node


def _override(content: dict[str, Any], text: str) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise ConfigError(f"{text!r} is no key=value, e.g. optimizer.lr=0.0002")
    *sections, last = key.split(".")
    place = content
    for section in sections:
        inner = place.setdefault(section, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"{key!r}: {section!r} is no section")
        place = inner
    try:
        place[last] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"the value of {text!r} is no YAML: {' '.join(str(error).split())}") from error


def _section(kind: type[_Section], content: Any, prefix: str, whole: type) -> _Section:
    if content is None:
        content = {}
    if not isinstance(content, Mapping):
        raise ConfigError(f"section {prefix.rstrip('.')!r} must hold keys and values, got {content!r}")
    hints = typing.get_type_hints(kind, include_extras=True)
    known = [item.name for item in fields(kind)]  # type: ignore[arg-type]
    for key in content:
        if key not in known:
            raise ConfigError(f"unknown key {prefix + str(key)!r}; {_nearest(prefix + str(key), prefix, known, whole)}")
    for item in fields(kind):  # type: ignore[arg-type]
        if item.default is MISSING and item.default_factory is MISSING and item.name not in content:
            raise ConfigError(f"{prefix + item.name!r} is missing")
    return kind(**{key: _value(hints[key], value, prefix + key, whole) for key, value in content.items()})


def _nearest(key: str, prefix: str, known: Iterable[str], whole: type) -> str:
    every = _all_keys(whole, "")
    # A key in the wrong section is found by its last part.
    elsewhere = [path for path in every if path.split(".")[-1] == key.split(".")[-1]]
    here = did_you_mean(key, [prefix + name for name in known])
    return did_you_mean(key, elsewhere[:1], alike=0.0) or here or did_you_mean(key, every, alike=0.0)


def _all_keys(kind: Any, prefix: str) -> list[str]:
    keys: list[str] = []
    for name, hint in typing.get_type_hints(kind).items():
        if is_dataclass(hint):
            keys += [prefix + name, *_all_keys(hint, f"{prefix}{name}.")]
        elif name in {item.name for item in fields(kind)}:
            keys.append(prefix + name)
    return keys


def _value(hint: Any, value: Any, key: str, whole: type) -> Any:
    if is_dataclass(hint):
        return _section(hint, value, f"{key}.", whole)  # type: ignore[arg-type]
    choices = typing.get_args(hint) if typing.get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    for choice in choices:
        fits, converted = _as(choice, value)
        if fits:
            return converted
    raise ConfigError(f"{key} must be {' or '.join(map(_in_words, choices))}, got {value!r}")


_WORDS = {type(None): "null", bool: "true or false", int: "a whole number", float: "a number", str: "text"}


def _in_words(kind: Any) -> str:
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin is Annotated:
        return f"{_in_words(inner[0])} {inner[1]}"
    if origin is tuple:
        many = "" if inner[-1] is Ellipsis else f" of {len(inner)}"
        return f"a list{many}, each {_in_words(inner[0])}"
    return _WORDS.get(kind, "keys and values")


def _as(kind: Any, value: Any) -> tuple[bool, Any]:
    """Return whether a value of YAML is of a kind, and the value converted to it."""
    if typing.get_origin(kind) is Annotated:
        plain, values = typing.get_args(kind)
        fits, converted = _as(plain, value)
        return fits and converted in values, converted
    if kind is type(None):
        return value is None, None
    if kind is bool:
        return isinstance(value, bool), value
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool), value
    if kind is float:
        # YAML 1.1 reads 1e-4, which has no point, as text.
        try:
            return isinstance(value, (int, float, str)) and not isinstance(value, bool) and math.isfinite(
                float(value)
            ), float(value)
        except (TypeError, ValueError, OverflowError):
            return False, value
    if kind is str:
        return isinstance(value, str), value
    if typing.get_origin(kind) is tuple:
        return _as_tuple(typing.get_args(kind), value)
    return isinstance(value, dict), value


def _as_tuple(kinds: tuple[Any, ...], value: Any) -> tuple[bool, Any]:
    if not isinstance(value, (list, tuple)):
        return False, value
    if kinds[-1] is Ellipsis:
        kinds = kinds[:1] * len(value)
    if len(kinds) != len(value):
        return False, value
    items = [_as(kind, item) for kind, item in zip(kinds, value, strict=True)]
    return all(fits for fits, _ in items), tuple(item for _, item in items)
