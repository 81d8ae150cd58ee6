"""The audit section: what it tells, and that hostile names, texts and pictures stay what they are on the page."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image
from test_report_page import HOSTILE, Reader

from nmtool.report.audits import audits
from nmtool.report.gather import Audited
from nmtool.report.page import page


def png() -> bytes:
    sink = io.BytesIO()
    Image.new("RGB", (4, 4), (10, 200, 30)).save(sink, "PNG")
    return sink.getvalue()


def audited(name: str, picture: bytes, missing: str = "") -> Audited:
    line = {
        "given_name": name,
        "suggested_name": "cat",
        "combined": 0.987,
        "agreement": 2,
        "sample": name,
        "flipped": True,
        "picture": picture,
        "text": name,
    }
    summary = {
        "n": 200,
        "classes": 2,
        "noise_ratio": 0.25,
        "noise_ratio_true": 0.2,
        "split": "train",
        "labels": name,
        "flagged": {"mixture": 41, "neighbours": 43, "combined": 44},
        "agreement": {"0": 150, "1": 5, "2": 45},
        "quality": {"combined": {"auroc": 0.91234, "average_precision": 0.8, "precision": 0.75, "recall": None}},
    }
    per_class = (
        {"class": name, "n": 100, "wrong": 30, "ratio": 0.3, "seems": "cat", "seems_n": 29, "ratio_true": 0.2},
    )
    return Audited(
        content="sha256:" + "ab" * 32,
        name=name,
        summary=summary,
        classes=(name, "cat"),
        transition=np.array([[0.75, 0.25], [0.0, 1.0]]),
        per_class=per_class,
        top=(line,),
        missing=missing,
    )


def test_nothing_to_tell() -> None:
    assert audits([]) is None


def test_hostile_names_stay_text() -> None:
    for name in HOSTILE:
        section = audits([audited(name, png())])
        assert section is not None
        seen = Reader(page("t", "l", [section]).decode())
        for tag, attributes in seen.elements:
            assert tag not in ("script", "iframe", "object", "embed", "base", "form"), tag
            assert not any(key.startswith("on") for key in attributes), (tag, attributes)
            if tag == "img":
                source = attributes["src"] or ""
                assert source == "data:image/png;base64," + base64.b64encode(png()).decode()
        assert [tag for tag, _ in seen.elements].count("img") == 1
        text = " ".join(seen.text)
        for word in ("98.7 % wrong", "2 views agree", "label is wrong", "0.9123", "25.00", "20.00", "30.00"):
            assert word in text


def test_what_is_no_picture_is_not_shown() -> None:
    for picture in (b"", b"<svg onload=alert(1)>", b"GIF89a"):
        section = audits([audited("x", picture, missing="the features came ready made")])
        assert section is not None
        text = page("t", "l", [section]).decode()
        assert "<img" not in text
        assert "the features came ready made" in text
