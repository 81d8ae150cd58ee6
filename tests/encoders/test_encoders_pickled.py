"""What ``torch.save`` wrote is read under rules: nothing runs, only tensors come out, each refusal says what to do."""

from __future__ import annotations

import argparse
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_samples import ask, images

from nmtool.encoders.checkpoints import read_safetensors, read_torch_saved
from nmtool.encoders.timm import create
from nmtool.errors import DataError, InputMissingError, UnavailableError


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return dict(create("test_resnet", {}, num_classes=None, seed=3).state_dict())


def test_a_hostile_file_never_runs(tmp_path: Path) -> None:
    trap = tmp_path / "sentinel"
    plain = pickle.dumps({"state_dict": Trap(trap)})
    pickle.loads(plain)["state_dict"].close()
    assert trap.exists(), "the trap works"
    trap.unlink()
    torch.save({"w": torch.zeros(2), "x": Trap(trap)}, tmp_path / "new.pt")
    torch.save({"w": Trap(trap)}, tmp_path / "legacy.pt", _use_new_zipfile_serialization=False)
    (tmp_path / "plain.pt").write_bytes(plain)
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("archive/data.pkl", plain)
        archive.writestr("archive/version", "3")
    with tarfile.open(tmp_path / "tar.pt", "w") as tar:
        tar.add(tmp_path / "plain.pt", "pickle")
    for name in ("new.pt", "legacy.pt", "plain.pt", "zip.pt", "tar.pt"):
        for suffix in (".pt", ".pth", ".bin", ".ckpt"):
            path = (tmp_path / name).with_suffix(suffix)
            path.write_bytes((tmp_path / name).read_bytes())
            with pytest.raises(DataError, match="safetensors") as caught:
                images(ask(path, arch="test_resnet"))
            assert caught.value.exit_code == 65
            assert "save_file" in caught.value.remedy
    assert not trap.exists()


def test_the_forms_that_training_scripts_save(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    batch = torch.rand(2, 3, 64, 64)
    forms: list[Any] = [
        state,
        OrderedDict(state),
        {"state_dict": state, "epoch": 7, "best": 0.5},
        {"model": {f"module.{k}": v for k, v in state.items()}},
        {"model_state_dict": {f"module._orig_mod.{k}": v for k, v in state.items()}},
        {"state_dict": {f"model.{k}": v for k, v in state.items()}, "pytorch-lightning_version": "2"},
        {k: torch.nn.Parameter(v) if v.is_floating_point() else v for k, v in state.items()},
    ]
    found = []
    for number, form in enumerate(forms):
        for legacy in (False, True):
            path = tmp_path / f"{number}{legacy}.pth"
            torch.save(form, path, _use_new_zipfile_serialization=not legacy)
            found.append(images(ask(path, arch="test_resnet")).features(batch))
    assert all(torch.equal(found[0], other) for other in found)
    torch.save({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, tmp_path / "half.pt")
    assert read_torch_saved(tmp_path / "half.pt")["conv1.0.weight"].dtype == torch.float32


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ([torch.zeros(2)], "a list"),
        ({}, "nothing"),
        ({"w": torch.zeros(2), "epoch": 3}, "'epoch' that are no tensors"),
        ({"state_dict": {"w": torch.zeros(2), "lr": 0.1}}, "in 'state_dict' 'lr'"),
        ({"w": torch.zeros(2).to_sparse()}, "sparse"),
        ({"args": argparse.Namespace(lr=1), "state_dict": {"w": torch.zeros(2)}}, "more than tensors"),
        (torch.nn.Linear(2, 2), "more than tensors"),
    ],
)
def test_everything_but_tensors_is_refused(tmp_path: Path, body: object, says: str) -> None:
    torch.save(body, tmp_path / "w.pt")
    with pytest.raises(DataError, match=says):
        read_torch_saved(tmp_path / "w.pt")


def test_damaged_missing_changed(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "w.pt"
    with pytest.raises(InputMissingError):
        read_torch_saved(path)
    torch.save(state, path)
    whole = path.read_bytes()
    for data in (b"", b"\x80", b"PK\x03\x04", whole[:-40], whole[: len(whole) // 2], b"\0" * 64):
        path.write_bytes(data)
        with pytest.raises(DataError):
            read_torch_saved(path)
    path.write_bytes(whole)
    with pytest.raises(DataError, match="other bytes"):
        read_torch_saved(path, "sha256:" + "0" * 64)
    with pytest.raises(DataError, match="pickled"):
        read_safetensors(path)


def test_one_bit_is_another_encoder(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save(state, tmp_path / "a.pt")
    data = bytearray((tmp_path / "a.pt").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "b.pt").write_bytes(data)
    one, two = (ask(tmp_path / name, arch="test_resnet") for name in ("a.pt", "b.pt"))
    assert one.spec.weights != two.spec.weights
    assert one.input != two.input


def test_a_torch_with_known_holes_reads_no_pickle(
    tmp_path: Path, state: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(state, tmp_path / "w.pt")
    monkeypatch.setattr(torch, "__version__", "2.10.1+cpu")
    with pytest.raises(UnavailableError, match=r"torch 2\.11") as caught:
        read_torch_saved(tmp_path / "w.pt")
    assert caught.value.exit_code == 69
