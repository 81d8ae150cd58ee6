"""``nmtool show LABELS``: where the flips went, in a terminal's width, for few classes and for many."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest


def draw(ok: Callable, folder: Path, y: np.ndarray, names: list[str], *argv: str) -> list[str]:
    np.savez(folder / "x.npz", X_train=np.zeros((len(y), 1), np.float32), y_train=y, classes=np.array(names))
    ok("inject-noise", "arrays:x.npz", *argv, "-o", "out")
    lines = ok("show", "out").out.splitlines()
    assert max((len(line) for line in lines if "|" in line), default=0) <= 100
    return lines


def test_few_classes_in_numbers(ok: Callable, tmp_path: Path) -> None:
    y = np.repeat(np.arange(2), 50)
    lines = draw(ok, tmp_path, y, ["yes", "no \x1b[31m"], "--type", "pairflip", "--ratio", "0.3")
    rows = [line for line in lines if line.count("|") == 2]
    assert [row.split("|")[1].split() for row in rows] == [["70", "30"], ["30", "70"]]
    assert "15 of 50" in rows[0]
    assert "\x1b" not in "".join(lines)
    assert any("the most hit class took 50 % of the flips, 2 of 2 classes were hit" in line for line in lines)


def test_a_name_with_line_breaks_keeps_to_its_line(ok: Callable, tmp_path: Path) -> None:
    y = np.repeat(np.arange(2), 50)
    lines = draw(ok, tmp_path, y, ["a\nb\tc", "<b>"], "--type", "pairflip", "--ratio", "0.3")
    rows = [line for line in lines if line.count("|") == 2]
    assert [row.split("|")[0].strip() for row in rows] == ["a\\x0ab\\x09c", "<b>"]
    assert rows[0].index("|") == rows[1].index("|")


def test_some_classes_in_shades(ok: Callable, tmp_path: Path) -> None:
    y = np.repeat(np.arange(20), 10)
    lines = draw(ok, tmp_path, y, [f"c{i:02d}" for i in range(20)], "--type", "pairflip", "--ratio", "0.1")
    rows = [line for line in lines if line.startswith("  c") and "|" in line]
    assert len(rows) == 20
    for k, row in enumerate(rows):  # the one class that it is taken for, and nothing else
        cells = row.split("|")[1]
        assert cells[2 * ((k + 1) % 20) :][:2] == "██"
        assert cells.count("█") == 2
        assert "1 of 10" in row


@pytest.mark.parametrize(("count", "size"), [(100, 4), (1000, 40), (997, 30)])
def test_many_classes_in_blocks(ok: Callable, tmp_path: Path, count: int, size: int) -> None:
    """Flips to the next class stay in a block or go to the one after; blocks of no flips are points."""
    y = np.repeat(np.arange(count), 4)
    names = [f"c{i:04d}" for i in range(count)]
    lines = draw(ok, tmp_path, y, names, "--type", "pairflip", "--ratio", "0.25")
    rows = [line for line in lines if line.startswith("  c") and "|" in line]
    assert f"block of {size} classes" in "\n".join(lines)
    assert len(rows) == -(-count // size)
    for k, row in enumerate(rows):
        cells = row.split("|")[1][::2]
        marked = [at for at, cell in enumerate(cells) if cell != "·"]
        assert marked == sorted({k, (k + 1) % len(rows)})
    assert "each class received 1 samples of others" in "\n".join(lines)
    assert "c0000 → c0001: 1 (25 % of the class)" in "\n".join(lines)


def test_nothing_flipped(ok: Callable, tmp_path: Path) -> None:
    lines = draw(ok, tmp_path, np.arange(60) % 30, [f"c{i}" for i in range(30)], "--type", "symmetric", "--ratio", "0")
    assert "  no label was flipped" in lines


def test_captions_by_example(ok: Callable, tmp_path: Path) -> None:
    from PIL import Image

    for name in "abcdef":
        Image.new("RGB", (2, 2)).save(tmp_path / f"{name}.png")
    (tmp_path / "t.csv").write_text("path,caption\n" + "".join(f"{n}.png,text {n}\n" for n in "abcdef"))
    ok("inject-noise", "table:t.csv", "--type", "captions", "--ratio", "0.4", "-o", "out")
    text = ok("show", "out").out
    assert "2 of 6 pairs (33.33 %) have another pair's caption" in text
    assert text.count("has the caption of") == 2
