"""Steps that look at no value are the steps that do: on a CPU as they are, on a GPU recorded as CUDA graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Given
from safetensors.numpy import load_file
from test_tune_stack import runs_of
from tune_samples import results, tune, write_features

from nmtool.artifact.stage import Silence
from nmtool.numerics import spectral
from nmtool.tune import fit, record
from nmtool.tune.material import Bench, Material, Overlay, Target
from nmtool.tune.mlp import MlpHeads
from nmtool.tune.nmtune import Regularisers
from nmtool.tune.optimise import StackAdamW


def heads_of(ref: Any) -> dict[str, Any]:
    return dict(load_file(ref.path / "data" / "heads.safetensors"))


def both(
    tmp_path: Path, features: Any, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> tuple[list[bool | None], Any, Any]:
    """What each epoch gave (whether its steps were good enough), and the artifact without and with the recorder."""
    epochs: list[bool | None] = []
    real = record.Recorder.epoch

    def told(self: record.Recorder, *args: Any) -> Any:
        found = real(self, *args)
        epochs.append(found is not None)
        return found

    monkeypatch.setattr(record.Recorder, "epoch", told)
    monkeypatch.setattr(record, "pays", lambda device, terms, steps: False)
    looked = tune(tmp_path / "looked", features, **settings)
    assert not epochs
    monkeypatch.setattr(record, "pays", lambda device, terms, steps: terms is None or terms.can_be_blind)
    return epochs, looked, tune(tmp_path / "recorded", features, **settings)


def same(looked: Any, recorded: Any) -> None:
    """Heads to 2e-4 of each tensor's largest value, and every number of the log."""
    mine, theirs = heads_of(recorded), heads_of(looked)
    assert mine.keys() == theirs.keys()
    for name, tensor in theirs.items():
        if name[9:] in ("mlp.0.bias", "norm.0.mean") and f"{name[:8]}.norm.0.mean" in theirs:
            continue  # the norm takes the bias out again: its gradient is rounding alone
        assert np.abs(mine[name] - tensor).max() <= 2e-4 * np.abs(tensor).max(), name
    for a, b in zip(results(recorded), results(looked), strict=True):
        assert abs(a["accuracy"] - b["accuracy"]) <= 1 / a["n"] + 1e-9
        assert a["train_accuracy"] == pytest.approx(b["train_accuracy"], abs=2 / 100)


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "lp", "lr": (1e-3, 3e-3), "weight_decay": (0.0, 0.1)},
        {"method": "lp", "loss": "elr", "scale": "standardize"},
        {"method": "mlp", "width": 1, "batch_norm": True, "schedule": "linear"},
        {"method": "nmtune", "width": 1, "fraction": (0.5, 1.0)},
        {"method": "nmtune", "width": 8, "batch_size": 300},  # more rows than dimensions
    ],
    ids=["lp", "elr", "mlp", "nmtune", "nmtune large"],
)
def test_recorded_steps_are_the_steps(
    pixels: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    """Heads of several rates and shares, the last batch of an epoch smaller."""
    settings = {"epochs": 4, "batch_size": 50, "seeds": (0, 5), **settings}
    epochs, looked, recorded = both(tmp_path, pixels.features, monkeypatch, **settings)
    assert epochs
    assert all(epochs)
    same(looked, recorded)


def test_an_epoch_in_doubt_is_done_again_with_more_effort(
    pixels: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first effort reaches is taken to be next to nothing."""
    monkeypatch.setattr(spectral, "EFFORTS", ((0.9, 2, 0.0), spectral.EFFORTS[-1]))
    monkeypatch.setattr(record, "EFFORTS", spectral.EFFORTS)
    settings: dict[str, Any] = {"method": "nmtune", "epochs": 3, "batch_size": 50, "width": 1}
    epochs, looked, recorded = both(tmp_path, pixels.features, monkeypatch, **settings)
    assert epochs == [True] * 3
    same(looked, recorded)


def test_lack_of_rank_is_no_doubt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row three times: the batches lack rank from the first step on."""
    rng = np.random.default_rng(0)
    X = np.repeat(rng.normal(size=(20, 12)).astype(np.float32), 3, axis=0)
    y = np.repeat(np.arange(20) % 2, 3)
    splits = {"train": (X, y), "test": (X[::3], y[::3])}
    features = write_features(tmp_path / "rows", splits, classes=("no", "yes")).path
    settings: dict[str, Any] = {"method": "nmtune", "epochs": 2, "batch_size": 60, "width": 1}
    settings |= {"residual": False}
    epochs, looked, recorded = both(tmp_path, features, monkeypatch, **settings)
    same(looked, recorded)
    assert epochs == [True, True]


class Replayed:
    """A recording on a CPU: the work itself, and on request not quite."""

    def __init__(self, work: Any, spoil: Any = lambda: None) -> None:
        self.work, self.spoil, self.count = work, spoil, 0

    def replay(self) -> None:
        self.count += 1
        self.work()
        self.spoil()


@pytest.mark.parametrize("method", ["lp", "mlp", "nmtune"])
def test_a_recording_that_does_the_same_is_replayed(
    pixels: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    made: list[Replayed] = []
    if torch.cuda.is_available():
        pytest.skip("here they are real ones")
    monkeypatch.setattr(record, "_record", lambda device, work: made.append(Replayed(work)) or made[-1])
    settings: dict[str, Any] = {"method": method, "epochs": 4, "batch_size": 60, "seeds": (0, 5)}
    epochs, looked, recorded = both(tmp_path, pixels.features, monkeypatch, **settings)
    assert epochs == [True] * 4
    # 8 full steps an epoch, and a last one of 20 rows: two and one single, and one replay to prove each
    assert [graph.count for graph in made] == [4 * 8 - 2, 4 - 2]
    same(looked, recorded)


def test_a_recording_that_does_something_else_is_not_used(
    pixels: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Replayed] = []
    work_of = record.Recorder._work

    def spoiled(self: record.Recorder, rows: int, steps: int) -> None:
        work_of(self, rows, steps)
        spoiled.recorder = self  # type: ignore[attr-defined]

    def spoil() -> None:
        weight = spoiled.recorder._heads.parameters["classifier.weight"]  # type: ignore[attr-defined]
        weight.detach().mul_(1.01)

    monkeypatch.setattr(record.Recorder, "_work", spoiled)
    monkeypatch.setattr(record, "_record", lambda device, work: made.append(Replayed(work, spoil)) or made[-1])
    settings: dict[str, Any] = {"method": "lp", "epochs": 4, "batch_size": 60, "seeds": (0, 5)}
    epochs, looked, recorded = both(tmp_path, pixels.features, monkeypatch, **settings)
    assert epochs == [True] * 4
    assert [graph.count for graph in made] == [1]
    same(looked, recorded)


def test_where_nothing_can_be_recorded_steps_are_single(
    pixels: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor do they add to the gradients that a recording has left which broke off."""
    tried: list[None] = []
    step = StackAdamW.step_on_device

    def breaks_off(self: StackAdamW) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nlater lines")

    def refuse(device: torch.device, work: Any) -> None:
        tried.append(None)
        monkeypatch.setattr(StackAdamW, "step_on_device", breaks_off)
        try:
            work()
        finally:
            monkeypatch.setattr(StackAdamW, "step_on_device", step)

    monkeypatch.setattr(record, "_record", refuse)
    settings: dict[str, Any] = {"method": "nmtune", "epochs": 3, "batch_size": 60}
    epochs, looked, recorded = both(tmp_path, pixels.features, monkeypatch, **settings)
    assert epochs == [True] * 3
    assert len(tried) == 1
    same(looked, recorded)


def test_what_no_effort_solves_goes_to_steps_that_look(
    pixels: Given, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"method": "nmtune", "epochs": 3, "batch_size": 50, "width": 1}
    monkeypatch.setattr(spectral, "EFFORTS", ((0.9, 2, 0.0), (0.9, 2, 0.0)))
    monkeypatch.setattr(record, "EFFORTS", spectral.EFFORTS)
    epochs, looked, recorded = both(tmp_path, pixels.features, monkeypatch, **settings)
    assert epochs == [False]
    mine, theirs = heads_of(recorded), heads_of(looked)
    assert all(np.array_equal(mine[name], theirs[name]) for name in theirs)  # as if it had not been tried


def test_a_killed_run_goes_on_with_its_effort(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first effort reaches is taken to be nothing; in the third epoch comes the kill."""
    monkeypatch.setattr(spectral, "EFFORTS", ((0.9, 2, 0.0), spectral.EFFORTS[1]))
    for module in (record, fit):
        monkeypatch.setattr(module, "EFFORTS", spectral.EFFORTS)
    monkeypatch.setattr(record, "pays", lambda device, terms, steps: True)
    monkeypatch.setattr(fit, "CHECKPOINT_S", -1.0)
    rng, device = np.random.default_rng(0), torch.device("cpu")
    X, y = torch.from_numpy(rng.normal(size=(200, 64)).astype(np.float32)), np.arange(200) % 10
    ids = [str(row) for row in range(200)]
    target = Target(source="", shown="", split="", role="id", rows=np.arange(200), ids=ids, X=X, y=y)
    overlay = Overlay(name="", shown="", y=y, ratio=None)
    material = Material(X=X, ids=ids, clean=y, overlays=(overlay,), classes=("",) * 10, targets=(target,))
    runs = runs_of(method=("nmtune",), epochs=(4,), batch_size=(50,), width=(1,), seeds=(0, 1))
    efforts: list[tuple[int, int]] = []
    real, left = record.Recorder.epoch, [99]

    def told(self: record.Recorder, *args: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        before = self.effort
        found = real(self, *args)
        efforts.append((before, self.effort))
        return found

    monkeypatch.setattr(record.Recorder, "epoch", told)

    def trained(kept: dict[str, bytes]) -> fit.Trained:
        bench = Bench(device=device, report=Silence(), keep=kept.__setitem__, kept=kept.get)
        return fit.fit(MlpHeads, runs, material, bench, Regularisers(runs, device))

    whole = trained({})
    kept: dict[str, bytes] = {}
    efforts.clear()
    left[0] = 2
    with pytest.raises(KeyboardInterrupt):
        trained(kept)
    left[0] = 99
    again = trained(kept)
    assert efforts == [(0, 1), (1, 1), (1, 1), (1, 1)]
    assert again.epochs == whole.epochs
    for name, tensor in whole.heads.parameters.items():
        assert torch.equal(again.heads.parameters[name], tensor)


def test_what_looks_at_values_is_not_recorded() -> None:
    """Five largest values are not told apart by squaring."""
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    few = Regularisers(runs_of(method=("nmtune",), svd_topk=(5,)), cpu)
    one = Regularisers(runs_of(method=("nmtune",), svd_topk=(1,)), cpu)
    assert record.pays(cuda, one, 100)
    assert record.pays(cuda, None, 100)
    assert not record.pays(cuda, few, 100)
    assert not record.pays(cuda, one, 3)
    assert not record.pays(cpu, one, 100)


@pytest.mark.parametrize("within", [1e-3, 1e-6, 1e-12])
@pytest.mark.parametrize("lowest", [0.5, 5e-4, 3e-7])
def test_quintics_take_the_interval_to_one(lowest: float, within: float) -> None:
    values = np.geomspace(lowest, 1, 100_001)
    for a, b, c in spectral.quintics(lowest, within):
        values = a * values + b * values**3 + c * values**5
    assert np.abs(values - 1).max() <= max(within, 1e-13)


def test_one_quintic_is_the_nearest() -> None:
    """On [1/2, 1] no other of a thousand tries around it, and the distance is reached at four points, by turns."""
    ((a, b, c), *_) = spectral.quintics(0.5)
    s = np.linspace(0.5, 1, 20_001)
    off = a * s + b * s**3 + c * s**5 - 1
    worst = np.abs(off).max()
    peaks = off[np.abs(off) > worst * (1 - 1e-6)]
    assert np.count_nonzero(np.diff(np.sign(peaks))) == 3
    rng = np.random.default_rng(0)
    for da, db, dc in rng.normal(scale=0.02, size=(1000, 3)):
        assert np.abs((a + da) * s + (b + db) * s**3 + (c + dc) * s**5 - 1).max() > worst
