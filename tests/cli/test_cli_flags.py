"""Flags that are said or denied: ``--no-X`` means no, for every such flag of every stage, and in what comes of it."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import typer.testing
from sklearn.datasets import load_digits

from nmtool.cli.app import STAGES, app
from nmtool.records import ArtifactRef
from nmtool.settings import flag_of, plain, types_of


def switches() -> list[tuple[str, str, str]]:
    """Command, room and field of every flag that is yes or no."""
    found = []
    for command, (room, _) in STAGES.items():
        config = importlib.import_module(f"nmtool.{room}.config").Config
        kinds = types_of(config)
        found += [(command, room, f.name) for f in dataclasses.fields(config) if plain(kinds[f.name]) is bool]
    return found


class _Heard(Exception):
    """Ends a command where its stage would begin."""


@pytest.mark.parametrize(("command", "room", "name"), switches())
def test_yes_is_yes_and_no_is_no(command: str, room: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the stage is given, for each flag said, denied and left out."""
    config = importlib.import_module(f"nmtool.{room}.config").Config
    heard: list[object] = []

    def listen(given: Any, session: object) -> ArtifactRef:
        heard.append(getattr(given, name))
        raise _Heard

    monkeypatch.setattr(importlib.import_module(f"nmtool.{room}.run"), "run", listen)
    (field,) = (f for f in dataclasses.fields(config) if f.name == name)
    operands = [f.name for f in dataclasses.fields(config) if f.metadata["operand"]]
    word = flag_of(field)[2:]
    needed = ["--type", "symmetric", "--ratio", "0.1"] if command == "inject-noise" else []
    needed += ["--objective", "supervised", "--arch", "a"] if command == "pretrain" else []
    for flags in ([f"--{word}"], [f"--no-{word}"], []):
        ran = typer.testing.CliRunner().invoke(app, [command, *operands, *needed, *flags])
        assert isinstance(ran.exception, _Heard), ran.exception
    assert heard == [True, False, field.default]


def test_what_is_denied_is_not_done(ok: Callable[..., Any], tmp_path: Path) -> None:
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype(np.float32)
    np.savez(tmp_path / "d.npz", X_train=x[:200], y_train=y[:200], X_test=x[200:300], y_test=y[200:300])
    ok("extract", "none", "arrays:d.npz", "-o", "features")
    argv = ("tune", "features", "--epochs", "1", "--fraction", "0.2,0.5", "--json")
    told = {
        name: ok(*argv, *flags, "-o", name).json
        for name, flags in {
            "plain": (),
            "bare": ("--no-spectra",),
            "mute": ("--no-predictions",),
            "apart": ("--no-nested-fractions",),
        }.items()
    }
    keys = {name: body["key"] for name, body in told.items()}
    assert len(set(keys.values())) == 4
    for name, body in told.items():
        rows = pq.read_table(tmp_path / name / "data" / "results.parquet").to_pylist()
        for row in (*rows, *body["results"]):
            assert (row["sve"] is None, row["lsvr"] is None) == (name == "bare",) * 2
        for file in ("predictions.parquet", "per_class.parquet"):
            assert (tmp_path / name / "data" / file).exists() == (name != "mute"), (name, file)
    # nested or not, the smaller share is other rows of the same seed
    accuracies = {name: [row["accuracy"] for row in body["results"]] for name, body in told.items()}
    assert accuracies["bare"] == accuracies["mute"] == accuracies["plain"] != accuracies["apart"]
