"""Settings of a stage: one frozen dataclass a room, declared once, read from flags and TOML.

Every field says what it is for and whether it is part of the key. The command line is made from these declarations, so
a flag, a TOML key and a field of the manifest's ``config`` are the same word. Nothing is read from disk here.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar, Union, get_args, get_origin

from nmtool.errors import ConfigError, UsageError

C = TypeVar("C")
_MISSING = dataclasses.MISSING


def setting(
    default: Any = _MISSING,
    *,
    doc: str,
    key: bool,
    choices: tuple[str, ...] = (),
    repeat: bool = False,
    flag: str = "",
    operand: bool = False,
) -> Any:
    """Declare a field of a stage's configuration.

    Args:
        default: its value where neither flag nor file gives one; without it the setting is required.
        doc: one line for ``--help`` and the reader, with its source where it has one.
        key: whether it changes the numbers, and so is part of the artifact's key.
        choices: the allowed words, where there are only some.
        repeat: the flag may be given several times (else lists are comma-separated).
        flag: the flag's name where it is not the field's.
        operand: a positional argument of the command.
    """
    metadata = {"doc": doc, "key": key, "choices": choices, "repeat": repeat, "flag": flag, "operand": operand}
    if default is _MISSING:
        return dataclasses.field(metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def flag_of(field: dataclasses.Field[Any]) -> str:
    """The flag that sets a field: ``--batch-size`` for ``batch_size``."""
    return field.metadata.get("flag") or "--" + field.name.replace("_", "-")


def types_of(config_class: type) -> dict[str, Any]:
    """Resolved annotations of a configuration class."""
    return typing.get_type_hints(config_class)


def is_optional(kind: Any) -> bool:
    """Whether None is allowed."""
    return get_origin(kind) in (Union, types.UnionType) and type(None) in get_args(kind)


def plain(kind: Any) -> Any:
    """``int`` for ``int | None``; other types as they are."""
    if is_optional(kind):
        return next(a for a in get_args(kind) if a is not type(None))
    return kind


def is_list(kind: Any) -> bool:
    """Whether a field takes several values."""
    return get_origin(plain(kind)) is tuple


def _scalar(text: object, kind: Any, where: str) -> Any:
    """One value from a flag's text or a TOML value, by the declared type; 1 and 1.0 are one float."""
    try:
        if kind is bool:
            if isinstance(text, bool):
                return text
            raise ValueError
        if isinstance(text, bool):
            raise ValueError
        if kind is int:
            if isinstance(text, float):
                raise ValueError
            return int(text)  # type: ignore[call-overload]
        if kind is float:
            value = float(text)  # type: ignore[arg-type]
            if not math.isfinite(value):
                raise ValueError
            return value
        if not isinstance(text, str):
            raise ValueError
        return text
    except (TypeError, ValueError):
        wanted = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}[kind]
        raise UsageError(f"{where} is {text!r}", wanted) from None


def convert(value: object, field: dataclasses.Field[Any], kind: Any, where: str) -> Any:
    """A field's value from a flag or TOML; raises ``UsageError`` naming ``where`` and what was wanted."""
    bare = plain(kind)
    if value is None and is_optional(kind):
        return None
    if get_origin(bare) is tuple:
        inner = get_args(bare)[0]
        if isinstance(value, str):
            items: list[object] = [value] if field.metadata["repeat"] else [v.strip() for v in value.split(",")]
        elif isinstance(value, (list, tuple)):
            items = list(value)
        else:
            items = [value]
        if not field.metadata["repeat"] and any(item == "" for item in items):
            raise UsageError(f"{where} is {value!r}", "values between the commas")
        out = tuple(_scalar(item, inner, where) for item in items)
    else:
        out = _scalar(value, bare, where)
    for item in out if isinstance(out, tuple) else (out,):
        choices = field.metadata["choices"]
        if choices and item not in choices:
            near = difflib.get_close_matches(str(item), choices, n=1)
            hint = f"did you mean {near[0]}?" if near else ""
            raise UsageError(f"{where} is {item!r}", "one of " + ", ".join(choices), hint)
    return out


def resolve(config_class: type[C], flags: Mapping[str, object], table: Mapping[str, object], file: str) -> C:
    """Defaults, then the TOML table of ``file``, then flags (None: not given)."""
    fields = {f.name: f for f in dataclasses.fields(config_class)}  # type: ignore[arg-type]
    kinds = types_of(config_class)
    values: dict[str, object] = {}
    for name, value in table.items():
        field = fields.get(name.replace("-", "_"))
        if field is None:
            near = difflib.get_close_matches(name.replace("-", "_"), fields, n=1)
            hint = f"did you mean {near[0]}?" if near else "known: " + ", ".join(fields)
            raise ConfigError(f"unknown key {name!r} in {file}", "", hint)
        try:
            values[field.name] = convert(value, field, kinds[field.name], f"{name} in {file}")
        except UsageError as error:
            raise ConfigError(error.found, error.expected, error.remedy) from None
    for name, value in flags.items():
        if value is None:
            continue
        field = fields[name]
        where = name.upper() if field.metadata["operand"] else flag_of(field)
        values[name] = convert(value, field, kinds[name], where)
    for field in fields.values():
        if field.default is _MISSING and field.name not in values:
            what = field.name.upper() if field.metadata["operand"] else flag_of(field)
            choices = field.metadata["choices"]
            raise UsageError(f"{what} is missing", "one of " + ", ".join(choices) if choices else field.metadata["doc"])
    return config_class(**values)


def keyed(config: Any) -> dict[str, object]:
    """The settings that are part of the key, as plain JSON values."""
    return {f.name: _json(getattr(config, f.name)) for f in dataclasses.fields(config) if f.metadata["key"]}


def everything(config: Any) -> dict[str, object]:
    """All settings but the operands (they are named among the inputs), as plain JSON values."""
    return {f.name: _json(getattr(config, f.name)) for f in dataclasses.fields(config) if not f.metadata["operand"]}


def _json(value: object) -> object:
    return [_json(v) for v in value] if isinstance(value, tuple) else value
