"""A cached call is light; what is spelled out and what is left to its default have one key; a killed tune goes on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import Given
from tune_samples import tune

from nmtool.artifact.open import open_artifact
from nmtool.artifact.stage import Session
from nmtool.tune.config import Config
from nmtool.tune.run import run

_CALL = """
import sys
from pathlib import Path
from nmtool.artifact.stage import Session, Staging
from nmtool.tune.config import Config
from nmtool.tune.run import run

def go(store, features, **settings):
    return run(Config(features=features, device="cpu", workers=1, **settings), Session(store=Path(store)))
"""
_LIGHT = (
    _CALL
    + """
ref = go(*sys.argv[1:3], method=("lp", "mlp"), epochs=(2,), ood=(sys.argv[2] + ":train",))
heavy = {"torch", "timm", "zarr", "sklearn", "pyarrow", "scipy", "safetensors"} & set(sys.modules)
print(ref.cached, ref.content, sorted(heavy))
"""
)
_KILL = (
    _CALL
    + """
import os, signal, json
import torch
torch.set_num_threads(1)
from nmtool.tune import fit
fit.CHECKPOINT_S = -1.0
left = int(sys.argv[3])
keep = Staging.keep
def keep_and_die(self, name, data):
    global left
    keep(self, name, data)
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
Staging.keep = keep_and_die
settings = {k: tuple(v) if isinstance(v, list) else v for k, v in json.loads(sys.argv[4]).items()}
print(go(*sys.argv[1:3], **settings).content)
"""
)


def python(code: str, *argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, timeout=120)


def test_a_cached_call_imports_nothing_heavy(pixels: Given, store: Path) -> None:
    features = str(pixels.features.path)
    made = tune(store, features, method=("lp", "mlp"), epochs=2, ood=(f"{features}:train",))
    done = python(_LIGHT, str(store), features)
    assert done.stdout.split(maxsplit=2) == ["True", made.content, "[]\n"], done.stderr


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({"lr": 0.1, "weight_decay": 0.0, "scale": "none", "epochs": 30}, True),
        ({"seeds": (0,)}, True),
        ({"train": "train", "test": "test", "device": "auto", "workers": 3}, True),
        ({"tau": 0.9, "weight_svd": 7.0}, True),
        ({"lr": 0.2}, False),
        ({"seed": 1}, False),
        ({"train": "test", "test": "train"}, False),
        ({"spectra": False}, False),
        ({"k": (3,), "C": (7.0,), "search_holdout": 0.5}, True),
        ({"elr_beta": (0.5,), "lambda_u": (3.0,), "warmup": (0.5,), "cleanse": ("none",), "probe_lr": (0.1,)}, True),
        ({"cleanse": ("once",)}, False),
        ({"solver": ("lbfgs",)}, False),
    ],
)
def test_the_key_holds_what_changes_the_numbers(
    pixels: Given, store: Path, settings: dict[str, Any], same: bool
) -> None:
    def planned(**more: Any) -> str:
        lists = {
            k: (v,) if "tuple" in str(Config.__dataclass_fields__[k].type) and not isinstance(v, tuple) else v
            for k, v in more.items()
        }
        config = Config(features=str(pixels.features.path), **lists)
        ref = run(config, Session(store=store, dry_run=True))
        assert ref.planned
        assert "train 1 × lp on split" in ref.work
        return ref.key

    assert (planned() == planned(**settings)) is same


def test_a_killed_tune_ends_with_the_same_content(pixels: Given, tmp_path: Path) -> None:
    """Killed within the first stack, and again within the second."""
    settings = '{"method": ["lp", "nmtune"], "epochs": [3], "seeds": [0, 1], "width": [2], "scale": ["standardize"]}'
    end_alike(pixels, tmp_path, settings)


def test_a_killed_search_ends_with_the_same_content(pixels: Given, tmp_path: Path) -> None:
    """Killed within its search, and again after it."""
    settings = '{"method": ["lp", "mlp"], "epochs": [3], "lr": [0.01, 0.001], "width": [1], "search": true}'
    end_alike(pixels, tmp_path, settings, kills=(2, 5))


def test_killed_rivals_end_with_the_same_content(pixels: Given, tmp_path: Path) -> None:
    """Targets of ELR, pairs of heads and rounds of a cleansing go on where they were."""
    settings = (
        '{"method": ["lp", "dividemix", "unicon"], "loss": ["elr"], "epochs": [4], "seeds": [0, 1], '
        '"cleanse": ["none", "each"], "probe_epochs": [3], "optimizer": ["sgd"]}'
    )
    end_alike(pixels, tmp_path, settings, kills=(2, 12, 13))


def end_alike(pixels: Given, tmp_path: Path, settings: str, kills: tuple[int, ...] = (1, 3)) -> None:
    features = str(pixels.features.path)
    whole = python(_KILL, str(tmp_path / "whole"), features, "0", settings)
    assert whole.returncode == 0, whole.stderr
    for kill in kills:
        killed = python(_KILL, str(tmp_path / "killed"), features, str(kill), settings)
        assert killed.returncode == -9, killed.stderr
        assert not list((tmp_path / "killed").rglob("manifest.json"))
    ended = python(_KILL, str(tmp_path / "killed"), features, "0", settings)
    assert ended.stdout == whole.stdout, ended.stderr
    made = next((tmp_path / "killed" / "heads").glob("lp-*"))
    assert open_artifact(made).manifest.made["resumed"] > 0
