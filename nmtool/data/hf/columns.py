"""From the columns of a Hugging Face dataset to what they are for: image, texts, label, caption. Opens nothing.

What the features say comes first (``Image``, ``ClassLabel``), the Arrow types stand in where nobody says. A role that
the URI maps is taken as mapped; one that several columns could have is refused, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nmtool.data.hf.arrow import Leaf
from nmtool.data.index import check_id
from nmtool.data.labels import MAX_CLASSES
from nmtool.errors import DataError

COLUMNS = ("image", "text", "text_b", "label", "caption", "split", "domain", "id")
_TEXTS = (
    ("sentence",),
    ("sentence1", "sentence2"),
    ("premise", "hypothesis"),
    ("question", "sentence"),
    ("question1", "question2"),
    ("text",),
)
_CAPTIONS = ("caption", "text", "captions")
_LABELS = ("label", "labels")


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column.

    Attributes:
        kind: ``image``, ``class``, ``text``, ``number``, ``real`` or ``other``.
        names: class names, for ``class``.
        type: its Arrow type.
    """

    kind: str
    names: tuple[str, ...] = ()
    type: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """What is read from where.

    Attributes:
        kind: ``images``, ``captions`` or ``text``.
        columns: column by role.
        names: class names where the label is a ``ClassLabel``; None where it is not.
        data, path: of an image, where its bytes and where its path are.
    """

    kind: str
    columns: Mapping[str, str]
    names: tuple[str, ...] | None
    data: Leaf | None = None
    path: Leaf | None = None


def columns_of(schema: Any, features: Mapping[str, Any], where: str) -> dict[str, Column]:
    """What each column holds.

    Args:
        schema: the ``pyarrow.Schema`` of a file, with the features in its metadata where it has them.
        features: those that the dataset's info gives.
        where: the file, for messages.

    Raises:
        DataError: a column twice, or class names that are none or differ between the two.
    """
    own = _own(schema, where)
    out: dict[str, Column] = {}
    for field in schema:
        if field.name in out:
            raise DataError(f"column {field.name!r} stands twice in {where}", "each column once")
        found = [_column(each.get(field.name), field, where) for each in (features, own)]
        names = {each.names for each in found if each.kind == "class"}
        if len(names) > 1:
            raise DataError(
                f"the class names of {field.name!r} in {where} are not those of the dataset's info", "the same in both"
            )
        out[field.name] = found[0] if features.get(field.name) else found[1]
    return out


def _own(schema: Any, where: str) -> Mapping[str, Any]:
    """The features in a schema's metadata."""
    import json

    try:
        found = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))
        features = (found.get("info") or {}).get("features") or {}
        return {str(name): feature for name, feature in features.items()}
    except (ValueError, AttributeError, RecursionError):
        raise DataError(
            f"the features in {where} can't be read", "those that datasets writes", "save it again"
        ) from None


def _column(feature: object, field: Any, where: str) -> Column:
    import pyarrow as pa

    kind = field.type
    said = feature.get("_type") if isinstance(feature, dict) else None
    if said == "ClassLabel":
        assert isinstance(feature, dict)
        if not pa.types.is_integer(kind):
            raise DataError(f"the ClassLabel {field.name!r} in {where} is stored as {kind}", "whole numbers")
        return Column(kind="class", names=_names(feature, field.name), type=kind)
    if said == "Image":
        return Column(kind="image", type=kind)
    if said is None and pa.types.is_struct(kind):
        fields = {kind.field(k).name: kind.field(k).type for k in range(kind.num_fields)}
        is_image = set(fields) == {"bytes", "path"} and _is_bytes(fields["bytes"]) and is_text(fields["path"])
        return Column(kind="image" if is_image else "other", type=kind)
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if is_text(kind):
        return Column(kind="text", type=kind)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return Column(kind="number", type=kind)
    return Column(kind="real" if pa.types.is_floating(kind) else "other", type=kind)


def is_text(kind: Any) -> bool:
    """Whether an Arrow type is one of texts."""
    import pyarrow as pa

    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _is_bytes(kind: Any) -> bool:
    import pyarrow as pa

    return any(test(kind) for test in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view))


def _names(feature: Mapping[str, Any], column: str) -> tuple[str, ...]:
    """The class names of a ``ClassLabel``, in its order."""
    names = feature.get("names")
    if names is None and isinstance(count := feature.get("num_classes"), int) and 0 < count <= MAX_CLASSES:
        return tuple(str(k) for k in range(count))
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise DataError(f"the ClassLabel {column!r} has no class names", "a name for each class", "cast it again")
    checked = tuple(check_id(name, "class name") for name in names)
    if len(set(checked)) < len(checked):
        twice = next(name for name in checked if checked.count(name) > 1)
        raise DataError(f"the class {twice!r} of {column!r} stands twice", "each class once", "rename one")
    return checked


def roles_of(columns: Mapping[str, Column], mapped: Mapping[str, str], where: str) -> Roles:
    """Which column has which role.

    Args:
        columns: those of the dataset.
        mapped: column by role, as the URI says.
        where: the dataset, for messages.

    Raises:
        DataError: a mapped column is not there or can't have its role, several could have one, or none can be a sample.
    """
    there = ", ".join(f"{name!r} ({column.kind})" for name, column in columns.items())
    for role, name in mapped.items():
        if name not in columns:
            raise DataError(f"{where} has no column {name!r} for {role} (it has {there})", "one of its columns")
    roles = dict(mapped)
    images = [name for name, column in columns.items() if column.kind == "image"]
    if "image" not in roles and "text" not in roles and images:
        roles["image"] = _only(images, "image", where)
    if "image" not in roles:
        _text(roles, columns, where, there)
        kind = "text"
    else:
        kind = _image(roles, columns)
    label = _label(roles, columns, where)
    if label and kind == "captions" and "caption" not in mapped:
        kind = "images"
    if label and kind != "captions":
        roles["label"] = label
    keep = {"images": ("image", "label"), "captions": ("image", "caption"), "text": ("text", "text_b", "label")}[kind]
    roles = {role: name for role, name in roles.items() if role in (*keep, "split", "domain", "id")}
    _check(roles, columns, where)
    names = columns[roles["label"]].names if "label" in roles and columns[roles["label"]].kind == "class" else None
    data, path = _leaves(roles["image"], columns[roles["image"]].type, where) if "image" in roles else (None, None)
    return Roles(kind=kind, columns=roles, names=names, data=data, path=path)


def _only(names: list[str], role: str, where: str) -> str:
    if len(names) > 1:
        shown = ", ".join(map(repr, names))
        raise DataError(
            f"several columns of {where} could be the {role}: {shown}", "one", f"map it: ?{role}={names[0]}"
        )
    return names[0]


def _text(roles: dict[str, str], columns: Mapping[str, Column], where: str, there: str) -> None:
    """Map the texts, unless the URI did."""
    if "text" in roles:
        return
    texts = [name for name, column in columns.items() if column.kind == "text" and name not in roles.values()]
    found = [names for names in _TEXTS if set(names) <= set(texts)]
    # a question with its sentence is a pair, though "sentence" stands first
    chosen = max(found, key=len) if found else tuple(texts)
    if not 1 <= len(chosen) <= 2:
        raise DataError(
            f"no column of {where} is known to be the sample (it has {there})",
            "an image, or one or two columns of text",
            "map them: hf:…?text=COLUMN&text_b=COLUMN&label=COLUMN",
        )
    roles.update(zip(("text", "text_b"), chosen, strict=False))


def _image(roles: dict[str, str], columns: Mapping[str, Column]) -> str:
    """``captions`` where a caption is mapped or there, else ``images``."""
    if "caption" not in roles:
        found = next((name for name in _CAPTIONS if name in columns and name not in roles.values()), None)
        if found is not None:
            roles["caption"] = found
    return "captions" if "caption" in roles and "label" not in roles else "images"


def _label(roles: Mapping[str, str], columns: Mapping[str, Column], where: str) -> str | None:
    """The column of labels; None where there is none."""
    if "label" in roles:
        return roles["label"]
    if "caption" in roles and columns[roles["caption"]].kind == "class":
        return None
    taken = set(roles.values())
    free = {name: column for name, column in columns.items() if name not in taken}
    named = [name for name in _LABELS if name in free and free[name].kind != "other"]
    if named:
        return _only(named, "label", where)
    classes = [name for name, column in free.items() if column.kind == "class"]
    return _only(classes, "label", where) if classes else None


def _check(roles: Mapping[str, str], columns: Mapping[str, Column], where: str) -> None:
    """Each role's column has to be of a kind that can have it."""
    import pyarrow as pa

    for role, name in roles.items():
        column = columns[name]
        fit = {
            "image": column.kind in ("image", "text") or _is_bytes(column.type),
            "label": column.kind in ("class", "number", "real", "text"),
            "split": column.kind in ("text", "class"),
            "domain": column.kind in ("text", "class"),
            "id": column.kind in ("text", "number"),
        }.get(role, column.kind == "text")
        if not fit:
            a_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
            hint = "keep one text a row" if role == "caption" and a_list else f"map another: ?{role}=COLUMN"
            raise DataError(f"column {name!r} of {where} is {column.type} and can't be the {role}", "", hint)


def _leaves(name: str, kind: Any, where: str) -> tuple[Leaf | None, Leaf | None]:
    """Where the bytes and the path of an image are."""
    import pyarrow as pa

    if not pa.types.is_struct(kind):
        return ((name,), None) if _is_bytes(kind) else (None, (name,))
    fields = {kind.field(k).name: kind.field(k).type for k in range(kind.num_fields)}
    data = (name, "bytes") if "bytes" in fields and _is_bytes(fields["bytes"]) else None
    path = (name, "path") if "path" in fields and is_text(fields["path"]) else None
    if data is None and path is None:
        raise DataError(f"column {name!r} of {where} is {kind}", "an image's bytes or its path", "cast it to Image()")
    return data, path
