"""``nmtool export``: an ONNX model and plain tensors that say what the head says; refused where there is no network."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits

NAMES = [f"digit {c}" for c in range(10)]


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pixels of digits as ready-made features; one row is all zeros."""
    path = tmp_path_factory.mktemp("digits") / "d.npz"
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype(np.float32)
    X[310] = 0
    names = np.array(NAMES)
    np.savez(path, X_train=X[:300], y_train=y[:300], X_test=X[300:500], y_test=y[300:500], classes=names)
    return path


def evaluators(path: Path) -> list[Callable[[Any], list[Any]]]:
    """onnx's own reference, and onnxruntime where it is installed."""
    from onnx.reference import ReferenceEvaluator

    reference = ReferenceEvaluator(str(path))
    found = [lambda x: reference.run(None, {"features": x})]
    try:
        import onnxruntime
    except ImportError:
        return found
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return [*found, lambda x: session.run(None, {"features": x})]


def heads_of_all_kinds(tmp_path: Path, digits: Path) -> Any:
    """One artifact whose runs have every scaling, activation, and shape."""
    import nmtool.extract.config as extract_config
    import nmtool.extract.run as extract
    from nmtool.artifact.stage import Session
    from nmtool.tune.config import Config
    from nmtool.tune.run import run

    session = Session(store=tmp_path / "store")
    features = extract.run(extract_config.Config(model="none", data=f"arrays:{digits}"), session)
    common: dict[str, Any] = {"features": str(features.path), "epochs": (3,), "device": "cpu", "spectra": False}
    scales = ("none", "l2", "standardize")
    released: dict[str, Any] = {
        "method": ("nmtune",),
        "preset": "released",
        "activation": ("relu", "gelu", "tanh", "none"),
    }
    return [
        run(Config(method=("lp", "mlp"), layers=(1, 3), width=(1,), scale=scales, **common), session),
        run(Config(scale=scales, width=(2,), layers=(3,), **released, **common), session),
        run(Config(method=("lp",), solver=("lbfgs",), **common), session),
        run(Config(method=("elr", "dividemix", "unicon"), scale=scales, **common), session),
        run(Config(method=("lp", "nmtune"), cleanse=("once",), probe_epochs=(3,), **common), session),
    ]


def test_onnx_gives_the_same_logits(tmp_path: Path, digits: Path) -> None:
    """To 1e-5 of the largest logit, for every scaling, activation and shape."""
    onnx = pytest.importorskip("onnx")
    import torch

    from nmtool.tune import evaluate, export
    from nmtool.tune.restored import choose_runs, read_heads

    with np.load(digits) as data:
        x = data["X_test"]
    checked = 0
    for ref in heads_of_all_kinds(tmp_path, digits):
        heads = read_heads(str(ref.path))
        for run in choose_runs(heads, "all"):
            path = tmp_path / "head.onnx"
            path.write_bytes(export.onnx_bytes(heads, run))
            head, scaling = heads.head(run, torch.device("cpu"))
            expected = torch.cat(list(evaluate.logits(head, scaling, torch.from_numpy(x)))).numpy()
            for ask in evaluators(path):
                logits, probabilities = ask(x)
                assert np.abs(logits - expected).max() <= 1e-5 * max(1.0, np.abs(expected).max()), run
                np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
                assert ask(x[:1])[0].shape == (1, 10)  # any number of rows
                checked += 1
    assert checked >= 3 + 6 + 12 + 1
    props = {p.key: p.value for p in onnx.load(str(path)).metadata_props}
    assert json.loads(props["nmtool"])["classes"] == NAMES


def test_the_lines_of_the_readme_load_a_head(ok: Callable, digits: Path, tmp_path: Path) -> None:
    """``heads.safetensors`` in ten lines of plain PyTorch: run as they stand there."""
    features = ok("extract", "none", f"arrays:{digits}", "-o", "features").path
    settings = ("--preset", "released", "--scale", "standardize", "--epochs", "3", "--device", "cpu")
    ok("tune", features, "--method", "nmtune", *settings, "-o", "heads")
    lines = README_LINES
    assert len(lines.strip().splitlines()) == 10
    with np.load(digits) as data:
        import torch

        names: dict[str, Any] = {"features": torch.from_numpy(data["X_test"])}
    import os

    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        exec(compile(lines, "README", "exec"), names)
    finally:
        os.chdir(here)
    stored = pq.read_table(tmp_path / "heads" / "data" / "predictions.parquet", use_threads=False)
    confidence = names["logits"].softmax(1).max(1).values.numpy()
    np.testing.assert_allclose(confidence, stored.column("confidence").to_numpy(), atol=1e-5)
    assert np.mean(names["logits"].argmax(1).numpy() == stored.column("predicted").to_numpy()) > 0.99


README_LINES = """\
from safetensors.torch import load_file
from torch.nn.functional import batch_norm, linear
h = {k.removeprefix("run_0000."): v for k, v in load_file("heads/data/heads.safetensors").items()}
x = z = (features - h["scale.mean"]) / h["scale.std"] if "scale.mean" in h else features  # l2: normalize(features)
if "mlp.0.weight" in h:  # two layers and ReLU, as by default
    a = linear(x, h["mlp.0.weight"], h["mlp.0.bias"])
    a = batch_norm(a, *(h[f"norm.0.{k}"] for k in ("mean", "var", "scale", "bias"))) if "norm.0.mean" in h else a
    z = linear(a.relu(), h["mlp.1.weight"], h["mlp.1.bias"])
    z = h["residual.scale"] * z + x if "residual.scale" in h else z
logits = linear(z, h["classifier.weight"], h["classifier.bias"])
"""


def test_plain_tensors(ok: Callable, digits: Path, tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.numpy import load_file

    features = ok("extract", "none", f"arrays:{digits}").path
    heads = ok("tune", features, "--seeds", "0,1", "--epochs", "2", "--scale", "standardize", "--device", "cpu").path
    body = ok("export", heads, "--format", "torch", "--run", "1", "-o", "head.safetensors", "--json").json
    assert (body["run"], body["format"], body["file"]) == (1, "torch", "head.safetensors")
    mine, whole = load_file(tmp_path / "head.safetensors"), load_file(tmp_path / heads / "data" / "heads.safetensors")
    assert set(mine) == {"classifier.weight", "classifier.bias", "scale.mean", "scale.std"}
    assert all(np.array_equal(v, whole[f"run_0001.{k}"]) for k, v in mine.items())
    with safe_open(tmp_path / "head.safetensors", "numpy") as file:
        facts = json.loads(file.metadata()["nmtool"])
    assert (facts["classes"], facts["dim"], facts["run"]["seed"]) == (NAMES, 64, 1)


def test_the_same_bytes_twice(ok: Callable, digits: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    features = ok("extract", "none", f"arrays:{digits}").path
    heads = ok("tune", features, "--epochs", "2", "--device", "cpu").path
    for name, form in itertools.product("ab", ("onnx", "torch")):
        assert ok("export", heads, "--format", form, "-o", f"{name}.{form}").out == f"{name}.{form}\n"
    for form in ("onnx", "torch"):
        assert (tmp_path / f"a.{form}").read_bytes() == (tmp_path / f"b.{form}").read_bytes()


def test_refusals(ok: Callable, nmtool: Callable, digits: Path, tmp_path: Path) -> None:
    features = ok("extract", "none", f"arrays:{digits}").path
    heads = ok("tune", features, "--method", "lp,knn", "--epochs", "1", "--device", "cpu").path
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "onnx.py").write_text("raise ImportError('not here')\n")
    for argv, env, code, words in (
        ((), {}, 2, "2 runs in"),
        (("--run", "1"), {}, 65, "run 1 is of method knn"),
        (("--run", "7"), {}, 66, "has no run 7"),
        (("--run", "0", "--format", "keras"), {}, 2, "onnx or torch"),
        (("--run", "0"), {"PYTHONPATH": str(hidden)}, 69, "pip install onnx"),
    ):
        ran = nmtool("export", heads, *argv, "-o", "x.onnx", env=env)
        assert (ran.code, ran.out) == (code, ""), ran.err
        assert words in ran.err
        assert "Traceback" not in ran.err
    assert not (tmp_path / "x.onnx").exists()
