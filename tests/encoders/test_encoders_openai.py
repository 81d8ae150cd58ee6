"""The parts of ``openai:`` that need no server: URLs, plan and key, answers read with suspicion, waiting, counting."""

from __future__ import annotations

import base64
import contextlib
import json
import struct
import subprocess
import sys
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmtool.artifact.memo import Memo
from nmtool.cli.app import without_secret
from nmtool.encoders.encoder import load
from nmtool.encoders.openai import checked_key, retry_after
from nmtool.encoders.openai_answer import TornError, complaint, parse
from nmtool.encoders.openai_plan import address, is_open, public_url
from nmtool.encoders.openai_tokens import token_counter
from nmtool.encoders.resolve import resolve
from nmtool.encoders.resolved import Resolved, Service
from nmtool.encoders.spec import from_json
from nmtool.errors import UnavailableError, UsageError
from nmtool.extract.service import batches_of


@pytest.mark.parametrize(
    ("given_", "url", "dropped"),
    [
        ("https://api.example/v1", "https://api.example/v1", False),
        ("https://API.Example:443/v1/", "https://api.example/v1", False),
        ("http://h:80", "http://h", False),
        ("http://h:8080/v1/embeddings/", "http://h:8080/v1", False),
        ("http://u:secret@h/v1", "http://h/v1", True),
        ("http://secret@h/v1", "http://h/v1", True),
        ("http://h/v1?key=secret", "http://h/v1", True),
        ("http://h/v1#secret", "http://h/v1", True),
        ("http://[::1]:8000/v1", "http://[::1]:8000/v1", False),
        ("  http://h/v1\n", "http://h/v1", False),
    ],
)
def test_urls_lose_what_may_be_secret(given_: str, url: str, dropped: bool) -> None:
    assert public_url(given_) == (url, dropped)
    assert public_url(url) == (url, False)
    assert "secret" not in address(url)


@pytest.mark.parametrize(
    "bad", ["", "h/v1", "localhost:8000/v1", "file:///secret", "http://", "http://secret@", "http://h:secret/v1", "//h"]
)
def test_what_is_no_url_is_refused_and_not_repeated(bad: str) -> None:
    with pytest.raises(UsageError, match="--base-url") as caught:
        public_url(bad)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("http://u:secret@h/v1?secret#secret", "http://h/v1"),
        ("--base-url=https://secret@h/v1", "--base-url=https://h/v1"),
        ("table:dev.tsv?text=a&label=b", "table:dev.tsv?text=a&label=b"),
        ("ftp://u:p@ss@h/x", "ftp://h/x"),
        ("a@b", "a@b"),
        ("--revision", "--revision"),
    ],
)
def test_the_command_in_manifests_loses_it_too(word: str, shown: str) -> None:
    assert without_secret(word) == shown


def test_keys_are_not_sent_in_the_open_unnoticed() -> None:
    for url, wanted in (
        ("http://h/v1", True),
        ("https://h/v1", False),
        ("http://127.0.0.1:8/v1", False),
        ("http://localhost", False),
        ("http://[::1]:8/v1", False),
        ("http://localhost.h/v1", True),
    ):
        assert is_open(url) is wanted, url


def plan(model: str = "openai:m", normalize: bool = False, **service: Any) -> Resolved:
    return resolve(
        model,
        arch=None,
        kwargs={},
        untrained=False,
        seed=0,
        overrides={},
        memo=Memo(None),
        tower="text",
        normalize=normalize,
        service=Service(**({"base_url": "http://h/v1"} | service)),
    )


def test_the_key_holds_what_is_known_of_a_black_box() -> None:
    seen = [
        plan(),
        plan("openai:other"),
        plan(base_url="http://elsewhere/v1"),
        plan(base_url="http://h/v2"),
        plan(dimensions=8),
        plan(revision="2024"),
        plan(separator=" "),
        plan(separator=""),
        plan(normalize=True),
    ]
    assert len({json.dumps(found.spec.to_json(), sort_keys=True) for found in seen}) == len(seen)
    first = seen[0]
    assert first.spec.to_json() == plan(base_url="https://h/v1").spec.to_json(), "how it is reached is not what it is"
    assert from_json(first.spec.to_json()) == first.spec
    assert (first.spec.tower, first.spec.feature, first.spec.dim, first.source) == ("text", "embedding", 0, "service")
    assert seen[5].input.content != first.input.content


def test_it_can_not_be_loaded() -> None:
    with pytest.raises(UsageError, match="runs at a service"):
        load(plan())


def test_planning_imports_no_torch_and_no_client() -> None:
    code = (
        "import sys; import nmtool.extract.run, nmtool.encoders.openai_plan;"
        "print(sorted({'torch', 'httpx', 'tiktoken', 'zarr'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def body(*items: object, **more: object) -> bytes:
    return json.dumps({"data": list(items), **more}).encode()


def item(index: object, *values: object) -> dict[str, object]:
    return {"index": index, "embedding": list(values)}


def test_items_are_put_in_order() -> None:
    packed = base64.b64encode(struct.pack("<2f", 0.1, -3.0)).decode()
    answer = parse(
        body(item(2, 5, 6.5), {"index": 0, "embedding": packed}, item(1, 3, None), usage={"total_tokens": 7}),
        3,
        None,
        "it",
    )
    wanted = np.array([[np.float32(0.1), -3], [3, np.nan], [5, 6.5]], dtype=np.float32)
    np.testing.assert_array_equal(answer.vectors, wanted)
    assert answer.vectors.dtype == np.float32
    assert answer.tokens == 7


@pytest.mark.parametrize(
    "bad",
    [
        body(),
        body(item(0, 1.0)),
        body(item(0, 1.0), item(0, 1.0)),
        body(item(0, 1.0), item(2, 1.0)),
        body(item(0, 1.0), item(-1, 1.0)),
        body(item(0, 1.0), item(True, 1.0)),
        body(item(0, 1.0), item("1", 1.0)),
        body(item(0, 1.0), item(1, 1.0, 2.0)),
        body(item(0, 1.0), item(1)),
        body(item(0), item(1)),
        body(item(0, 1.0), item(1, "1.0")),
        body(item(0, 1.0), item(1, True)),
        body(item(0, 1.0), item(1, [1.0])),
        body(item(0, 1.0), {"index": 1}),
        body(item(0, 1.0), {"index": 1, "embedding": "AAA"}),
        body(item(0, 1.0), {"index": 1, "embedding": "AAAA"}),
        body(item(0, 1.0), {"index": 1, "embedding": {"0": 1.0}}),
        body(item(0, 1.0), "x"),
        b"[]",
        b"null",
        b'{"data": {"0": 1}}',
    ],
)
def test_what_is_not_an_answer_is_refused(bad: bytes) -> None:
    with pytest.raises(UnavailableError, match=r"^it answered"):
        parse(bad, 2, None, "it")


def test_another_length_than_before_is_refused() -> None:
    good = body(item(0, 1.0, 2.0))
    assert parse(good, 1, 2, "it").vectors.shape == (1, 2)
    with pytest.raises(UnavailableError, match="length 2; expected 3"):
        parse(good, 1, 3, "it")


@pytest.mark.parametrize("torn", [b"", b"{", b'{"data": [', b"<html>", b"\xff\xfe", b"[" * 100_000, b"1" * 10_000])
def test_what_is_no_json_is_asked_again(torn: bytes) -> None:
    with pytest.raises((TornError, UnavailableError)) as caught:
        parse(torn, 1, None, "it")
    assert isinstance(caught.value, TornError) or torn.startswith(b"1")


def test_numbers_too_large_are_not_finite() -> None:
    raw = b'{"data": [{"index": 0, "embedding": [1e39, 1' + b"0" * 400 + b", NaN, -Infinity]}]}"
    assert not np.isfinite(parse(raw, 1, None, "it").vectors).any()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["data", "index", "embedding", "usage"]), inner)
        ),
    )
)
def test_no_answer_is_a_defect(found: object) -> None:
    raw = json.dumps(found).encode()
    with contextlib.suppress(TornError, UnavailableError):
        assert parse(raw, 1, None, "it").vectors.shape[0] == 1
    assert all(isinstance(text, str) for text in complaint(raw))


def test_complaints_of_several_services() -> None:
    assert complaint(b'{"error": {"message": "a", "type": "t", "code": null}}') == ("a", "t")
    assert complaint(b'{"error": {"message": "a", "code": "c"}}') == ("a", "c")
    assert complaint(b'{"error": "a"}') == ("a", "")
    assert complaint(b'{"detail": "a"}') == ("a", "")
    assert complaint(b'{"object": "error", "message": "a"}') == ("a", "")
    assert complaint(b"<html>") == ("", "")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": "Wed, 21 Oct 2015 07:28:30 GMT"}, 30.0),
        ({"retry-after": "Wed, 21 Oct 2015 07:27:00 GMT"}, 0.0),
        ({"retry-after": "Wed, 21 Oct 2015 08:28:30 +0100"}, 30.0),
        ({}, None),
    ],
)
def test_when_to_come_back(headers: dict[str, str], seconds: float | None) -> None:
    """The date is RFC 9110's own example."""
    assert retry_after(headers, datetime(2015, 10, 21, 7, 28, tzinfo=UTC)) == seconds


def test_keys_that_no_header_holds_are_refused_unquoted() -> None:
    assert checked_key("  sk-1\n") == "sk-1"
    assert checked_key(None) == ""
    for bad in ("secret key", "secret\r\nX: y", "secrét", "secret\x00"):
        with pytest.raises(UsageError, match="OPENAI_API_KEY") as caught:
            checked_key(bad)
        assert "secr" not in str(caught.value)


def test_tokens_without_tiktoken_are_a_third_of_the_bytes() -> None:
    count, by = token_counter("a model that nobody knows")
    assert by == "bytes / 3"
    assert [count(text) for text in ("", "a", "abc", "abcd", "Δ", "\ud800")] == [1, 1, 1, 2, 1, 1]


@given(st.lists(st.integers(1, 30), max_size=40), st.integers(1, 8), st.integers(1, 60))
def test_batches_hold_each_text_once_within_the_limits(sizes: list[int], items: int, tokens: int) -> None:
    batches = batches_of(["x" * size for size in sizes], len, items, tokens)
    assert [place for batch in batches for place in batch] == list(range(len(sizes)))
    for batch in batches:
        assert len(batch) <= items
        assert len(batch) == 1 or sum(sizes[place] for place in batch) <= tokens
