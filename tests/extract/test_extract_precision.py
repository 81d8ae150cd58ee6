"""Mixed precision, compiled encoders, and the road of a GPU on a CPU: the same features, as near as each can be."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from extract_samples import extract
from numpy.typing import NDArray

from nmtool.artifact.memo import Memo
from nmtool.artifact.open import open_artifact
from nmtool.artifact.stage import Session
from nmtool.artifact.typed import read_features
from nmtool.data.sources import open_dataset
from nmtool.encoders.encoder import load_image
from nmtool.encoders.resolve import resolve
from nmtool.errors import UsageError
from nmtool.extract import images, write
from nmtool.records import ArtifactRef

compiles = pytest.mark.skipif(
    not shutil.which(os.environ.get("CXX", "g++")), reason="torch.compile needs a C++ compiler"
)


def features(ref: ArtifactRef, split: str = "train") -> NDArray[np.float32]:
    return np.array(read_features(open_artifact(ref.path), split).features)


@pytest.mark.parametrize(("amp", "dtype"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_mixed_precision_is_torchs_autocast(photos: Path, session: Session, amp: str, dtype: torch.dtype) -> None:
    ref = extract(session, photos, amp=amp)
    full = features(extract(session, photos))
    mine = features(ref)
    assert mine.dtype == np.float32
    assert not np.array_equal(mine, full)
    assert np.linalg.norm(mine - full) < 0.05 * np.linalg.norm(full)
    assert ref.summary.get("amp", ref.summary["dtype"]) == {"fp16": "fp16", "bf16": "bfloat16"}[amp]
    encoder = load_image(resolved(session), torch.device("cpu"))
    dataset = open_dataset(f"folder:{photos}", memo=Memo(None))
    first = [encoder.prepare(dataset.image("train", row)) for row in range(5)]
    with torch.inference_mode(), torch.autocast("cpu", dtype=dtype):
        batch = torch.stack(first).contiguous(memory_format=torch.channels_last)
        theirs = encoder.module.forward_head(encoder.module.forward_features(batch), pre_logits=True).float().numpy()
    np.testing.assert_array_equal(mine[:5], theirs)


def test_halves_of_either_kind_are_stored_as_asked(photos: Path, session: Session) -> None:
    brain = features(extract(session, photos, dtype="bfloat16"))
    stored = features(extract(session, photos, dtype="float16", amp="bf16"))
    assert stored.dtype == np.float16
    np.testing.assert_array_equal(stored, brain.astype(np.float16))


def resolved(session: Session) -> Any:
    return resolve(
        "timm:test_resnet", arch=None, kwargs={}, untrained=True, seed=0, overrides={"size": 32}, memo=session.memo
    )


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"dtype": "bfloat16", "amp": "fp16"}, "--dtype bfloat16 with --amp fp16"),
        ({"compile": True, "feature": "layer1"}, "the layer layer1"),
    ],
)
def test_what_excludes_each_other_is_refused(photos: Path, session: Session, wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        extract(session, photos, **wrong)


@compiles
def test_a_compiled_encoder_gives_the_same_features(
    photos: Path, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the length of the last batch, the number of threads, and who comes first."""
    eager = features(extract(session, photos, views=1))
    ref = extract(session, photos, views=1, compile=True)
    assert ref.summary["compile"] is True
    compiled = features(ref)
    assert len(compiled) % 5  # the last batch is shorter than the others
    np.testing.assert_allclose(compiled, eager, rtol=0, atol=1e-5 * np.abs(eager).max())
    monkeypatch.setattr(write, "MOST_ROWS", 5)
    by_chunks = [
        extract(
            dataclasses.replace(session, store=tmp_path / str(workers)), photos, views=1, compile=True, workers=workers
        )
        for workers in (1, 3)
    ]
    assert by_chunks[0].content == by_chunks[1].content
    np.testing.assert_array_equal(features(by_chunks[0]), compiled)


def test_without_a_compiler_it_says_so(photos: Path, tmp_path: Path) -> None:
    """A process of its own: torch looks for the compiler once."""
    none = {"CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "nmtool", "extract", "timm:test_resnet", f"folder:{photos}", "--untrained"]
    command += ["--image-size", "32", "--device", "cpu", "--compile", "--store", str(tmp_path / "store")]
    done = subprocess.run(command, env={**os.environ, **none}, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 69, done.stderr
    assert "torch.compile can't compile test_resnet" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_road_of_a_gpu_gives_the_same_bits(
    photos: Path, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One batch in flight while the last is handed on; here both on the CPU, chunk after chunk, with views."""
    monkeypatch.setattr(write, "MOST_ROWS", 7)
    for views in (0, 2):
        usual = extract(session, photos, views=views)
        with monkeypatch.context() as other:
            other.setattr(images, "_on_cpu", images._on_gpu)
            again = extract(dataclasses.replace(session, store=tmp_path / "gpu"), photos, views=views, workers=2)
        assert again.summary["encoded"] == usual.summary["encoded"]
        assert again.content == usual.content


@compiles
def test_rows_encoded_again_need_a_compiler_too(photos: Path, tmp_path: Path) -> None:
    """``verify --replay`` where there is none any more says so, and is no traceback."""
    base = [sys.executable, "-m", "nmtool"]
    made = [*base, "extract", "timm:test_resnet", f"folder:{photos}", "--untrained", "--image-size", "32"]
    made += ["--device", "cpu", "--compile", "-o", str(tmp_path / "f")]
    assert subprocess.run(made, capture_output=True, timeout=300, check=False).returncode == 0
    verify = [*base, "verify", str(tmp_path / "f"), "--replay", "5"]
    assert subprocess.run(verify, capture_output=True, timeout=300, check=False).returncode == 0
    none = {"CXX": str(tmp_path / "none"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    lost = subprocess.run(verify, env={**os.environ, **none}, capture_output=True, text=True, timeout=300, check=False)
    assert lost.returncode == 69, lost.stderr
    assert "Traceback" not in lost.stderr
