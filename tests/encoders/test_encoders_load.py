"""Loading is strict, safe and exact: hostile files, misfits, and agreement with timm's own pipeline."""

from __future__ import annotations

import json
import pickle
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import timm.data
import torch
from PIL import Image
from safetensors.torch import load_file, save, save_file

from nmtool.artifact.memo import Memo
from nmtool.data.images import decode
from nmtool.encoders.checkpoints import read_safetensors
from nmtool.encoders.device import choose_device, one_thread_each, thread_count
from nmtool.encoders.encoder import ImageEncoder as Encoder
from nmtool.encoders.resolve import resolve
from nmtool.encoders.spec import Preprocessing
from nmtool.encoders.timm import Pixels, create, load
from nmtool.errors import DataError, UnavailableError, UsageError


def loaded(path: Path, arch: str = "test_resnet", **more: Any) -> Encoder:
    asked: dict[str, Any] = {"kwargs": {}, "untrained": False, "seed": 0, "overrides": {}}
    return load(resolve(str(path), arch=arch, **(asked | more), memo=Memo(None)))


def state() -> dict[str, torch.Tensor]:
    return dict(create("test_resnet", {}, num_classes=None, seed=3).state_dict())


class Sentinel:
    """Unpickling it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def test_a_hostile_file_never_runs(tmp_path: Path) -> None:
    trap = tmp_path / "sentinel"
    path = tmp_path / "weights.safetensors"
    plain = pickle.dumps(Sentinel(trap))
    with open(tmp_path / "check.pkl", "wb") as stream:
        stream.write(plain)
    pickle.loads(plain).close()
    assert trap.exists(), "the trap works"
    trap.unlink()
    torch.save({"w": Sentinel(trap)}, tmp_path / "saved")
    with zipfile.ZipFile(tmp_path / "zipped", "w") as archive:
        archive.writestr("archive/data.pkl", plain)
    with tarfile.open(tmp_path / "tarred", "w") as tar:
        tar.add(tmp_path / "check.pkl", "pickle")
    for hostile in (plain, *((tmp_path / name).read_bytes() for name in ("saved", "zipped", "tarred"))):
        path.write_bytes(hostile)
        with pytest.raises(DataError, match="safetensors"):
            loaded(path)
        # behind a header length that is right, a body that is none
        path.write_bytes(struct.pack("<Q", len(hostile)) + hostile)
        with pytest.raises(DataError, match="safetensors"):
            loaded(path)
    assert not trap.exists()


def test_damaged_files_are_bad_data(tmp_path: Path) -> None:
    whole = save({"w": torch.zeros(8, 8)})
    header = json.dumps({"w": {"dtype": "F32", "shape": [8, 8], "data_offsets": [0, 999999]}}).encode()
    path = tmp_path / "w.safetensors"
    cases = [
        b"",
        b"\0" * 4,
        whole[:-1],
        whole[:40],
        struct.pack("<Q", 200_000_000) + whole[8:],
        struct.pack("<Q", 2) + b"[]",
    ]
    for data in (*cases, struct.pack("<Q", len(header)) + header + b"\0" * 256):
        path.write_bytes(data)
        with pytest.raises(DataError) as caught:
            read_safetensors(path)
        assert caught.value.exit_code == 65
    path.write_bytes(whole)
    with pytest.raises(DataError, match="other bytes"):
        read_safetensors(path, "sha256:" + "0" * 64)


def test_half_precision_is_computed_in_float32(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"a": torch.tensor([0.1]).half(), "b": torch.tensor([0.1]).bfloat16(), "n": torch.tensor([7])}, path)
    read = read_safetensors(path)
    assert read["a"].dtype == read["b"].dtype == torch.float32
    assert read["a"].item() == torch.tensor([0.1]).half().item()
    assert read["n"].dtype == torch.int64


def test_the_classifier_may_be_missing_or_another(tmp_path: Path) -> None:
    full, images = state(), torch.rand(2, 3, 64, 64)
    path = tmp_path / "w.safetensors"
    outs = []
    for change in ({}, {"fc.weight": torch.zeros(3, 5), "fc.bias": torch.zeros(3)}, None):
        tensors = full | change if change is not None else {k: v for k, v in full.items() if not k.startswith("fc.")}
        save_file(tensors, path)
        outs.append(loaded(path).features(images))
    assert torch.equal(outs[0], outs[1])
    assert torch.equal(outs[0], outs[2])


def test_misfits_are_named(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    full = state()
    name = "layer1.0.conv1.weight"
    for tensors, says in (
        ({k: v for k, v in full.items() if k != name}, f"1 missing ({name})"),
        (full | {"strange": torch.zeros(1)}, "1 unknown (strange)"),
        (full | {name: torch.zeros(2)}, f"1 of another shape ({name}"),
        ({k: v for k, v in full.items() if "running_mean" not in k}, "missing"),
    ):
        save_file(tensors, path)
        with pytest.raises(DataError) as caught:
            loaded(path)
        assert says in str(caught.value)
        assert "--arch" in str(caught.value)


@pytest.mark.parametrize("arch", ["test_resnet", "test_vit", "mobilenetv3_small_050", "convnext_atto"])
def test_the_module_without_classifier_gives_the_feature(arch: str) -> None:
    memo = Memo(None)
    encoder = load(resolve(f"timm:{arch}", arch=None, kwargs={}, untrained=True, seed=0, overrides={}, memo=memo))
    assert encoder.spec.preprocessing is not None
    images = torch.rand(2, 3, *encoder.spec.preprocessing.size)
    full = create(arch, {}, num_classes=None, seed=0).eval()
    with torch.no_grad():
        features = encoder.features(images)
        torch.testing.assert_close(encoder.module(images), features, rtol=0, atol=0)
        torch.testing.assert_close(
            features, full.forward_head(full.forward_features(images), pre_logits=True), rtol=1e-4, atol=1e-5
        )
    assert features.shape == (2, encoder.spec.dim)
    encoder.module.reset_classifier(7)
    assert encoder.module(images).shape == (2, 7)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("shape", [(37, 90), (128, 128), (300, 211), (1, 9)])
def test_prepare_is_timms_evaluation_transform(mode: str, shape: tuple[int, int]) -> None:
    spec = Preprocessing(
        size=(64, 64),
        interpolation="bicubic",
        crop_pct=0.875,
        crop_mode=mode,
        mean=(0.4, 0.5, 0.6),
        std=(0.2, 0.3, 0.25),
    )
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    theirs = timm.data.create_transform(
        input_size=(3, 64, 64), interpolation="bicubic", crop_pct=0.875, crop_mode=mode, mean=spec.mean, std=spec.std
    )(Image.fromarray(image))
    pixels = Pixels(spec)
    assert torch.equal(pixels.normalise(pixels.crop(image)), theirs)


def test_mobilenet_with_real_weights_knows_its_padding(real_weights: Path) -> None:
    path = real_weights / "mobilenetv2_100.in1k_tf_ptq.fp16.safetensors"
    images = torch.rand(2, 3, 64, 64)
    same = loaded(path, "mobilenetv2_100", kwargs={"pad_type": "same"}).features(images)
    other = loaded(path, "mobilenetv2_100").features(images)
    assert same.shape == (2, 1280)
    assert not torch.allclose(same, other, atol=1e-2)


def test_a_narrow_mobilenet_v1_with_real_weights(real_weights: Path, real_data: Any) -> None:
    """A quarter of the width by ``channel_multiplier``; one nearest-class-mean on photographs beats chance by far."""
    path = real_weights / "mobilenetv1_025.in1k_tf_quant.fp16.safetensors"
    override = {"size": 128, "mean": (0.5,), "std": (0.5,)}
    kwargs = {"channel_multiplier": 0.25, "pad_type": "same"}
    encoder = loaded(path, "mobilenetv1_100", kwargs=kwargs, overrides=override)
    assert encoder.spec.dim == 256
    X, y = [], []
    for at, folder in enumerate(sorted((real_data("pacs") / "pacs" / "photo" / "train").iterdir())):
        for file in sorted(folder.glob("*.jpg"))[:20]:
            X.append(encoder.prepare(decode(file.read_bytes())))
            y.append(at)
    with torch.inference_mode():
        Z, labels = encoder.features(torch.stack(X)).double(), torch.tensor(y)
    learn = torch.arange(len(y)) % 2 == 0
    means = torch.stack([Z[learn & (labels == c)].mean(0) for c in range(7)])
    guess = torch.cdist(Z[~learn], means).argmin(1)
    assert (guess == labels[~learn]).double().mean() > 0.6  # chance: 1/7

    own = timm.models.efficientnet._gen_mobilenet_v1("mobilenetv1_100", channel_multiplier=0.25, pad_type="same").eval()
    own.load_state_dict({name: t.float() for name, t in load_file(path).items()}, strict=False)
    with torch.inference_mode():
        wanted = own.forward_head(own.forward_features(torch.stack(X[:8])), pre_logits=True)
        torch.testing.assert_close(encoder.features(torch.stack(X[:8])), wanted, atol=1e-5, rtol=1e-5)


def test_multipliers_are_timms_to_refuse_where_it_has_none() -> None:
    assert create("mobilenetv2_100", {"channel_multiplier": 0.5}, num_classes=0, seed=0).conv_stem.out_channels == 16
    assert create("mobilenetv2_100", {}, num_classes=0, seed=0).conv_stem.out_channels == 32
    with pytest.raises(UsageError, match="channel_multiplier"):
        create("test_resnet", {"channel_multiplier": 0.5}, num_classes=0, seed=0)
    with pytest.raises(UsageError, match="multipliers"):
        create("mobilenetv2_100", {"channel_multiplier": 0.5}, num_classes=0, seed=0, weights="any.safetensors")


def test_devices_and_threads() -> None:
    assert choose_device("cpu").type == "cpu"
    for word in ("gpu", "cuda:x", "mps", ""):
        with pytest.raises(UsageError):
            choose_device(word)
    with pytest.raises(UnavailableError):
        choose_device("cuda:99")
    assert thread_count(3) == 3
    assert 1 <= thread_count(0) <= 8
    with pytest.raises(UsageError):
        thread_count(-1)
    before = torch.get_num_threads()
    with one_thread_each():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
