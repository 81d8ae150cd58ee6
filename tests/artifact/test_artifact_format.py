"""Canonical JSON, sealed manifests, the file table and the names allowed in paths."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmtool.artifact.format import (
    FORMAT,
    FileEntry,
    Manifest,
    canonical,
    check_inside,
    parse,
    parse_manifest,
    parse_table,
    sha256,
    slug,
    table_bytes,
)
from nmtool.errors import CorruptError, DataError, NewerFormatError, NmtoolError

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


def manifest(**changes: object) -> Manifest:
    body: dict[str, object] = {
        "kind": "labels",
        "key": "sha256:" + "a" * 64,
        "content": "sha256:" + "b" * 64,
        "nmtool": "0.1.0",
        "created": "2026-01-01T00:00:00Z",
        "command": "nmtool inject-noise",
        "config": {"ratio": 0.1},
        "inputs": (),
        "recipe": {"stage": "inject-noise"},
        "summary": {"n": 3},
        "origin": {},
        "made": {},
        "files": {},
    }
    return Manifest(**{**body, **changes})  # type: ignore[arg-type]


def test_canonical_by_hand() -> None:
    assert canonical({"b": [1, 1.0, True, None], "a": "é"}) == '{"a":"é","b":[1,1.0,true,null]}'.encode()


def test_canonical_is_nfc() -> None:
    assert canonical("e\u0301") == canonical("\u00e9")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), {"x": [float("-inf")]}])
def test_canonical_refuses_what_json_has_not(bad: object) -> None:
    with pytest.raises(DataError):
        canonical(bad)


def test_canonical_refuses_twins_after_normalisation() -> None:
    with pytest.raises(DataError):
        canonical({"e\u0301": 1, "\u00e9": 2})


@settings(derandomize=True, max_examples=60, deadline=None)
@given(st.dictionaries(st.text(alphabet="abcdef", max_size=4), JSON, max_size=5))
def test_canonical_ignores_order_and_round_trips(body: dict[str, object]) -> None:
    backwards = dict(reversed(list(body.items())))
    try:
        data = canonical(body)
    except (DataError, UnicodeEncodeError):
        return
    assert canonical(backwards) == data
    assert canonical(parse(data, "it")) == data


@pytest.mark.parametrize(
    "data",
    [
        b"{",
        b'{"a":1,"a":2}',
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":1}' + b" " * (1 << 20),
    ],
)
def test_parse_is_strict(data: bytes) -> None:
    with pytest.raises(CorruptError):
        parse(data, "it")


def test_manifest_round_trip_and_seal() -> None:
    data = manifest().to_bytes()
    body = json.loads(data)
    seal = body.pop("seal")
    # An independent check of what the seal covers: all other fields, canonically.
    plain = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert seal == "sha256:" + hashlib.sha256(plain).hexdigest()
    assert parse_manifest(data, "it").summary == {"n": 3}
    assert body["format"] == FORMAT


@settings(derandomize=True, max_examples=80, deadline=None)
@given(st.data())
def test_any_changed_byte_of_a_manifest_is_noticed(data: st.DataObject) -> None:
    original = manifest().to_bytes()
    where = data.draw(st.integers(0, len(original) - 1))
    changed = bytearray(original)
    changed[where] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(NmtoolError):
        parse_manifest(bytes(changed), "it")


def test_a_newer_format_is_refused_by_name() -> None:
    body = json.loads(manifest(nmtool="9.9.9").to_bytes())
    body["format"] = 999
    with pytest.raises(NewerFormatError, match=r"9\.9\.9") as caught:
        parse_manifest(json.dumps(body).encode(), "it")
    assert caught.value.exit_code == 79


def test_the_table_is_sorted_and_strict() -> None:
    entries = [FileEntry(path=f"data/{n}", size=n, sha256=sha256(b"x")) for n in (3, 1, 2)]
    data = table_bytes(entries)
    assert parse_table(data, "it") == tuple(sorted(entries))
    lines = data.splitlines(keepends=True)
    for broken in (lines[1] + lines[0], data + lines[0], data[:-5], data.replace(b'"size"', b'"sise"')):
        with pytest.raises(CorruptError):
            parse_table(broken, "it")


@pytest.mark.parametrize(
    "path",
    [
        "",
        "data",
        "data/",
        "/data/x",
        "data/../x",
        "data/..",
        "data//x",
        "other/x",
        "data/.hid",
        "data/x\x00",
        "data/" + "y" * 200,
        "data/a b",
        "data/ü",
        "data/-rf",
        "C:/data/x",
        "data\\x",
    ],
)
def test_paths_that_climb_or_hide_are_refused(path: str) -> None:
    with pytest.raises(CorruptError):
        check_inside(path)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(st.text(max_size=300))
def test_a_slug_is_always_a_safe_name(text: str) -> None:
    name = slug(text)
    assert 1 <= len(name) <= 66
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")
    assert name[0] not in "._-"
    assert name.split(".")[0] not in ("con", "nul", "aux", "prn", "com1", "lpt1")
    assert slug(name) == name


@pytest.mark.parametrize("text", ["../../etc", "CON", "a/b", "\x00", "🙂", "‮evil", "x" * 300, "-rf", "</script>"])
def test_hostile_names_become_plain(text: str) -> None:
    assert "/" not in slug(text)
    assert ".." not in slug(text).split("/")
