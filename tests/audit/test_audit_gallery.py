"""Texts in the gallery: cut, pairs joined, whatever characters they hold."""

from __future__ import annotations

from pathlib import Path

from nmtool.artifact.memo import Memo
from nmtool.audit.gallery import TEXT, _picture, _text
from nmtool.data.sources import open_dataset


def test_texts_are_cut(tmp_path: Path) -> None:
    words = {"0": "short <b>", "1": "long " * 100}
    lines = ["text,text_b,label", *(f"{text},other {label},{label}" for label, text in words.items())]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    dataset = open_dataset(f"table:{tmp_path}/t.csv", memo=Memo(None))
    split = next(iter(dataset.splits))
    found = sorted(_text(dataset, split, row) for row in range(2))
    assert found[1] == "short <b> ⏐ other 0"
    assert len(found[0]) == TEXT
    assert found[0].endswith("…")
    assert _picture(dataset, split, 0) == b""
