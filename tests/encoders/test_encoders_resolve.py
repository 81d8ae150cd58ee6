"""MODEL as named by the user becomes an encoder by content: forms, refusals, keys, light the second time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from nmtool.artifact.memo import Memo
from nmtool.encoders.facts import facts_of, parse_kwargs
from nmtool.encoders.resolve import resolve
from nmtool.encoders.resolved import Resolved
from nmtool.encoders.spec import from_json
from nmtool.encoders.timm import create, load
from nmtool.errors import DataError, InputMissingError, NmtoolError, UnavailableError, UsageError


def ask(model: object, memo: Memo | None = None, **more: Any) -> Resolved:
    asked: dict[str, Any] = {"arch": None, "kwargs": {}, "untrained": False, "seed": 0, "overrides": {}}
    return resolve(str(model), **(asked | more), memo=memo or Memo(None))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small architecture's weights, with its classifier."""
    path = tmp_path_factory.mktemp("weights") / "resnet.safetensors"
    save_file(create("test_resnet", {}, num_classes=None, seed=3).state_dict(), path)
    return path


def test_untrained_is_seeded_named_and_leaves_the_global_state_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one = ask("timm:test_resnet", untrained=True, seed=1)
    two = ask("timm:test_resnet", untrained=True, seed=2)
    first, again, other = (load(r).module.state_dict() for r in (one, one, two))
    assert torch.equal(torch.get_rng_state(), before)
    assert one.spec.untrained
    assert one.spec.weights.startswith("untrained:1:timm-")
    assert one.input.content != two.input.content
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv1.0.weight"], other["conv1.0.weight"])


def test_spec_survives_json(weights: Path) -> None:
    spec = ask(weights, arch="test_resnet", overrides={"size": 64, "mean": (0.5,)}).spec
    assert from_json(spec.to_json()) == spec
    assert spec.preprocessing is not None
    assert spec.preprocessing.size == (64, 64)
    assert spec.preprocessing.mean == (0.5, 0.5, 0.5)


def test_one_bit_of_the_weights_is_another_encoder(weights: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    other.write_bytes(data)
    same = tmp_path / "elsewhere" / "renamed.safetensors"
    same.parent.mkdir()
    same.write_bytes(weights.read_bytes())
    base = ask(weights, arch="test_resnet")
    assert ask(same, arch="test_resnet").spec == base.spec
    assert ask(other, arch="test_resnet").spec != base.spec
    assert ask(other, arch="test_resnet").input != base.input


@pytest.mark.parametrize(
    ("model", "more", "error", "says"),
    [
        ("timm:resnt18", {"untrained": True}, UsageError, "resnet18"),
        ("timm:resnet18.nope", {"untrained": True}, UsageError, "a1_in1k"),
        ("timm:hf-hub:some/where", {"untrained": True}, UsageError, "no architecture"),
        ("timm:resnet18", {"arch": "resnet18"}, UsageError, "weights file alone"),
        ("timm:vit_tiny_patch16_224", {"untrained": True, "overrides": {"size": 128}}, UsageError, "img_size=128"),
        ("timm:test_resnet", {"untrained": True, "kwargs": {"nonsense": 1}}, UsageError, "nonsense"),
        (
            "timm:test_resnet",
            {"untrained": True, "kwargs": {"checkpoint_path": "x.pth"}},
            UsageError,
            "checkpoint_path",
        ),
        ("timm:test_resnet", {"untrained": True, "seed": -1}, UsageError, "--seed"),
        ("timm:test_resnet", {"untrained": True, "overrides": {"crop_pct": 1.5}}, UsageError, "--crop-pct"),
        ("timm:test_resnet", {"untrained": True, "overrides": {"std": (0.0,)}}, UsageError, "--std"),
        ("timm:test_resnet", {"untrained": True, "overrides": {"interpolation": "magic"}}, UsageError, "bicubic"),
        ("openai:text-embedding-3-small", {}, UsageError, "--base-url"),
        ("resnet18", {}, InputMissingError, "timm:resnet18"),
        ("/nowhere/at/all.safetensors", {"arch": "resnet18"}, InputMissingError, "does not exist"),
        ("timm:resnet18", {}, UnavailableError, "--untrained"),
    ],
)
def test_what_can_not_be_resolved_says_what_to_do(
    model: str, more: dict[str, Any], error: type[NmtoolError], says: str
) -> None:
    with pytest.raises(error, match=says.replace(".", r"\.")):
        ask(model, **more)


def test_an_unreachable_hub_names_the_place() -> None:
    with pytest.raises(
        UnavailableError, match=r"models--timm--resnet18\.a1_in1k/snapshots/\*/model\.safetensors"
    ) as caught:
        ask("timm:resnet18")
    assert caught.value.exit_code == 69


def test_the_hub_cache_is_used(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    root = tmp_path / "models--timm--test_resnet.r160_in1k"
    snapshot = root / "snapshots" / "0123456789"
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0123456789")
    (snapshot / "model.safetensors").write_bytes(weights.read_bytes())
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    hub = ask("timm:test_resnet")
    file = ask(weights, arch="test_resnet")
    assert hub.spec == file.spec
    images = torch.rand(2, 3, 64, 64)
    assert torch.equal(load(hub).features(images), load(file).features(images))


def test_weights_file_needs_arch_and_only_it(weights: Path) -> None:
    with pytest.raises(UsageError, match="--arch NAME"):
        ask(weights)
    with pytest.raises(UsageError, match="--untrained"):
        ask(weights, arch="test_resnet", untrained=True)


@pytest.mark.parametrize("name", ["w.pkl", "w.npz", "w.onnx", "weights"])
def test_other_files_are_refused_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(DataError, match="safetensors") as caught:
        ask(path, arch="test_resnet")
    assert caught.value.exit_code == 65


def test_kwargs_are_read_as_literals_or_text() -> None:
    words = ["pad_type=same", "drop_rate=0.1", "layers=[1,1]", "channels=(8, 16)", "zero_init_last=False", "x=true"]
    assert parse_kwargs(words) == {
        "pad_type": "same",
        "drop_rate": 0.1,
        "layers": [1, 1],
        "channels": [8, 16],
        "zero_init_last": False,
        "x": True,
    }
    for bad in (["pad_type"], ["a=1", "a=2"], ["1x=2"], ["pretrained=True"], ["cache_dir=/x"]):
        with pytest.raises(UsageError):
            parse_kwargs(bad)


@pytest.mark.parametrize("arch", ["test_resnet", "test_vit", "mobilenetv3_small_050"])
def test_the_feature_length_is_that_of_a_real_forward_pass(arch: str) -> None:
    facts = facts_of(arch, {}, None, Memo(None))
    model = create(arch, {}, num_classes=None, seed=0).eval()
    with torch.no_grad():
        out = model.forward_head(model.forward_features(torch.rand(1, 3, *facts.preprocessing.size)), pre_logits=True)
    assert out.shape == (1, facts.dim)


def test_what_the_memo_knows_needs_no_torch(tmp_path: Path, weights: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from nmtool.artifact.memo import Memo
from nmtool.encoders.resolve import resolve
memo = Memo(Path({str(tmp_path / "memo")!r}))
for model, arch, untrained in (({str(weights)!r}, "test_resnet", False), ("timm:test_resnet", None, True)):
    resolve(model, arch=arch, kwargs={{}}, untrained=untrained, seed=0, overrides={{"size": 64}}, memo=memo)
print(sorted({{"torch", "timm", "zarr", "sklearn"}} & sys.modules.keys()))
"""
    seen = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert "torch" in seen[0].stdout
    assert seen[1].stdout.strip() == "[]"
