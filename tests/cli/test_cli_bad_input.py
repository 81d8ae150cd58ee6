"""Bad input through the real command line: the contract's exit code, one clear message, and nothing half-written."""

from __future__ import annotations

import io
import pickle
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TINY = ("--untrained", "--image-size", "16")


def expect(ran: object, code: int, *words: str) -> None:
    """Exit code, the words, one error line, an empty stdout, no traceback."""
    assert ran.code == code, ran.err  # type: ignore[attr-defined]
    for word in words:
        assert word in ran.err, ran.err  # type: ignore[attr-defined]
    assert ran.out == ""  # type: ignore[attr-defined]
    assert "Traceback" not in ran.err  # type: ignore[attr-defined]
    assert sum("error: " in line for line in ran.err.splitlines()) == 1  # type: ignore[attr-defined]


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 255, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes of six small JPEGs, in train and test."""
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            place = tmp_path / "photos" / split / label
            place.mkdir(parents=True)
            for number in range(6):
                (place / f"{number}.jpg").write_bytes(picture(number + 100 * (label == "dog")))
    return tmp_path / "photos"


def leftovers(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in tmp_path.iterdir() if p.name not in ("photos", "x.npz", "weights"))


def test_missing_path(nmtool: Callable, tmp_path: Path) -> None:
    expect(nmtool("extract", "timm:test_resnet", "folder:nowhere", *TINY), 66, "nowhere")
    assert leftovers(tmp_path) == []


def test_empty_folder(nmtool: Callable, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    expect(nmtool("extract", "timm:test_resnet", "folder:photos", *TINY), 65, "CLASS")
    assert leftovers(tmp_path) == []


def test_one_class(nmtool: Callable, tmp_path: Path) -> None:
    place = tmp_path / "photos" / "only"
    place.mkdir(parents=True)
    for number in range(3):
        (place / f"{number}.jpg").write_bytes(picture(number))
    ran = nmtool("inject-noise", "folder:photos", "--type", "symmetric", "--ratio", "0.1")
    expect(ran, 65, "one class", "only")
    assert leftovers(tmp_path) == []


def test_truncated_jpeg(nmtool: Callable, ok: Callable, folder: Path, tmp_path: Path) -> None:
    victim = folder / "train/cat/3.jpg"
    victim.write_bytes(victim.read_bytes()[:300])
    ran = nmtool("extract", "timm:test_resnet", "folder:photos", *TINY, "-o", "features")
    expect(ran, 65, "train/cat/3.jpg", "--on-error skip")
    assert leftovers(tmp_path) == []
    body = ok("extract", "timm:test_resnet", "folder:photos", *TINY, "--on-error", "skip", "--json").json
    assert body["splits"]["train"]["skipped"] == 1
    assert body["splits"]["train"]["n"] == 12


def test_a_small_png_that_unpacks_to_170_megapixels(nmtool: Callable, folder: Path, tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    side = 13_000
    rows = (b"\x00" + bytes((side + 7) // 8)) * side
    header = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")
    assert len(bomb) < 30_000
    (folder / "train/cat/bomb.png").write_bytes(bomb)
    ran = nmtool("extract", "timm:test_resnet", "folder:photos", *TINY, "-o", "features")
    expect(ran, 65, "bomb.png", "64 megapixels")
    assert leftovers(tmp_path) == []


def test_nan_features(nmtool: Callable, ok: Callable, tmp_path: Path) -> None:
    X = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
    X[7, 2] = np.nan
    np.savez(tmp_path / "x.npz", X_train=X, y_train=np.arange(40) % 2, X_test=X[:4], y_test=np.arange(4) % 2)
    expect(nmtool("extract", "none", "arrays:x.npz", "-o", "features"), 65, "finite")
    assert leftovers(tmp_path) == []
    ok("extract", "none", "arrays:x.npz", "--on-error", "skip", "-o", "features")
    body = ok("tune", "features", "--method", "lp", "--epochs", "1", "--json").json
    assert body["train"]["n"] == 39
    assert ok("spectrum", "features:train", "--json").json["results"][0]["n"] == 39


def test_a_ratio_beyond_one(nmtool: Callable, tmp_path: Path) -> None:
    expect(nmtool("inject-noise", "digits", "--type", "symmetric", "--ratio", "1.2"), 2, "1.2", "[0, 1)")
    assert leftovers(tmp_path) == []


def test_labels_of_another_dataset(nmtool: Callable, ok: Callable, folder: Path, tmp_path: Path) -> None:
    ok("inject-noise", "digits", "--type", "symmetric", "--ratio", "0.1", "-o", "labels")
    ok("extract", "timm:test_resnet", "folder:photos", *TINY, "-o", "features")
    expect(nmtool("tune", "features", "--method", "lp", "--labels", "labels", "-o", "heads"), 65, "class")
    expect(nmtool("pretrain", "folder:photos", "--arch", "test_resnet", "--labels", "labels", "-o", "bb"), 65)
    expect(nmtool("tune", "features", "--method", "lp", "--labels", "features", "-o", "heads"), 65, "labels artifact")
    assert leftovers(tmp_path) == ["features", "labels"]


def test_a_corrupted_chunk(nmtool: Callable, ok: Callable, folder: Path, tmp_path: Path) -> None:
    ok("extract", "timm:test_resnet", "folder:photos", *TINY, "-o", "features")
    chunk = tmp_path / "features/data/features.zarr/train/features/c/0/0"
    chunk.chmod(0o644)
    data = bytearray(chunk.read_bytes())
    data[40] ^= 1
    chunk.write_bytes(data)
    for command in (
        ("spectrum", "features:train"),
        ("tune", "features", "--method", "lp"),
        ("verify", "features", "--full"),
    ):
        expect(nmtool(*command), 76, "features/c/0/0")
    assert leftovers(tmp_path) == ["features", *(["nmruns"] if (tmp_path / "nmruns").exists() else [])]
    assert not list(tmp_path.glob("nmruns/*/*/manifest.json"))


class _Bang:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("touch pwned",)


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt", "weights.pth", "weights.bin"])
def test_a_pickle_posing_as_weights(nmtool: Callable, folder: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / name).write_bytes(pickle.dumps({"weight": _Bang()}))
    ran = nmtool("extract", f"weights/{name}", "folder:photos", "--arch", "test_resnet", "-o", "features")
    expect(ran, 65, "safetensors")
    assert not (tmp_path / "pwned").exists()
    assert leftovers(tmp_path) == []


def test_a_class_named_as_an_end_of_script(ok: Callable, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = np.array(["</script><img src=x onerror=alert(1)>", "=1+1", "plain"])
    X = rng.normal(size=(60, 6)).astype(np.float32)
    np.savez(
        tmp_path / "x.npz", X_train=X, y_train=np.arange(60) % 3, X_test=X, y_test=np.arange(60) % 3, classes=names
    )
    features = ok("extract", "none", "arrays:x.npz").path
    labels = ok("inject-noise", "arrays:x.npz", "--type", "symmetric", "--ratio", "0.3").path
    heads = ok("tune", features, "--method", "lp", "--labels", labels, "--epochs", "2").path
    report = tmp_path / ok("report", heads, labels, features, "--format", "html,csv,markdown").path
    page = (report / "data/report.html").read_text()
    assert "<img" not in page
    assert "</script><" not in page
    assert "&lt;/script&gt;" in page


def test_rows_that_failed_are_named(nmtool: Callable, ok: Callable, folder: Path, tmp_path: Path) -> None:
    for number in range(4):
        (folder / "train" / "cat" / f"{number}.jpg").write_bytes(b"no image")
    ran = ok("extract", "timm:test_resnet", "folder:photos", *TINY, "--on-error", "skip", "-o", "f")
    assert "4 of 12 rows" in ran.err
    assert "'train/cat/0.jpg', 'train/cat/1.jpg', 'train/cat/2.jpg', …; samples.parquet" in ran.err


def test_features_given_that_are_no_numbers_are_named(nmtool: Callable, ok: Callable, tmp_path: Path) -> None:
    X = np.ones((5, 3))
    X[2, 1] = np.nan
    np.savez(tmp_path / "x.npz", X_train=X, y_train=np.arange(5) % 2)
    ran = ok("extract", "none", "arrays:x.npz", "--on-error", "skip", "-o", "f")
    assert "1 of 5 rows are marked and hold no features: 'train/000002'" in ran.err


def test_features_beyond_float32_get_advice_that_helps(nmtool: Callable, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", X_train=np.full((4, 3), 1e300), y_train=np.arange(4) % 2)
    ran = nmtool("extract", "none", "arrays:x.npz", "-o", "f")
    expect(ran, 65, "1e+300", "float32", "scale the features")
    assert "--dtype" not in ran.err


def test_a_wait_below_zero_is_refused(nmtool: Callable, tmp_path: Path) -> None:
    expect(nmtool("extract", "timm:test_resnet", "digits", *TINY, "--lock-wait", "-1"), 2, "--lock-wait")
