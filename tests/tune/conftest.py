"""Digit features, ready made and from a small network, made once a session."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tune_samples import digit_splits, flip, write_features, write_labels

from nmtool.artifact.stage import Session
from nmtool.records import ArtifactRef


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The machine is shared, and these matrices are small."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass(frozen=True)
class Given:
    """Inputs of a tune: features of a train and a test split, and labels of which 40 % are wrong."""

    features: ArtifactRef
    labels: ArtifactRef


@pytest.fixture(scope="session")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Given:
    """Raw pixels of 500 and 400 digits as ready-made features."""
    store = tmp_path_factory.mktemp("pixels")
    splits = digit_splits()
    labels = splits["train"][1]
    return Given(write_features(store, splits), write_labels(store, "train", labels, flip(labels, 0.4, 10)))


@pytest.fixture(scope="session")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> Given:
    """Features of digit images by a small network that was pre-trained on other digits, through the real stages."""
    import nmtool.extract.config as extract_config
    import nmtool.extract.run as extract
    import nmtool.inject_noise.config as noise_config
    import nmtool.inject_noise.run as noise
    import nmtool.pretrain.config as pretrain_config
    import nmtool.pretrain.run as pretrain

    torch.set_num_threads(1)
    session = Session(store=tmp_path_factory.mktemp("encoded"))
    backbone = pretrain.run(
        pretrain_config.Config(
            data="digits",
            arch="test_resnet",
            split="pretrain",
            validation="none",
            epochs=12,
            batch_size=64,
            lr=3e-3,
            augment="none",
            device="cpu",
            workers=1,
        ),
        session,
    )
    features = extract.run(
        extract_config.Config(
            model=str(backbone.path), data="digits", split=("train", "test", "rotated/test"), device="cpu", workers=1
        ),
        session,
    )
    labels = noise.run(noise_config.Config(data="digits", type="symmetric", ratio=(0.4,), split="train"), session)[0]
    return Given(features, labels)


TINY_CLIP: dict[str, object] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}


def _clip_file(folder: Path, seed: int) -> Path:
    """A small CLIP with random weights, in open_clip's layout."""
    import open_clip
    from safetensors.torch import save_file

    with torch.random.fork_rng():
        torch.default_generator.manual_seed(seed)
        state = open_clip.create_model("ViT-B-32", **TINY_CLIP).state_dict()
    path = folder / f"clip-{seed}.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path


@pytest.fixture(scope="session")
def clip_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of a small CLIP."""
    return _clip_file(tmp_path_factory.mktemp("clip"), 5)


@pytest.fixture
def other_clip_weights(tmp_path: Path) -> Path:
    """Other weights of the same architecture."""
    return _clip_file(tmp_path, 6)


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory, clip_weights: Path) -> Given:
    """Projected features of digit images by the image tower of a small CLIP."""
    import json

    import nmtool.extract.config as extract_config
    import nmtool.extract.run as extract
    import nmtool.inject_noise.config as noise_config
    import nmtool.inject_noise.run as noise

    session = Session(store=tmp_path_factory.mktemp("clip-features"))
    features = extract.run(
        extract_config.Config(
            model=str(clip_weights),
            arch="open_clip:ViT-B-32",
            model_kwargs=tuple(f"{k}={json.dumps(v)}" for k, v in TINY_CLIP.items()),
            data="digits",
            split=("train", "test", "rotated/test"),
            device="cpu",
            workers=1,
        ),
        session,
    )
    labels = noise.run(noise_config.Config(data="digits", type="symmetric", ratio=(0.4,), split="train"), session)[0]
    return Given(features, labels)


@pytest.fixture
def given(request: pytest.FixtureRequest, method: str) -> Given:
    """What a method of the table works on: images behind the features where it needs them."""
    from nmtool.tune.method import method_named

    needs = method_named(method).needs
    name = "pixels" if needs <= {"features"} else "clip" if "towers" in needs else "encoded"
    found: Given = request.getfixturevalue(name)
    return found


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of the test's own."""
    return tmp_path / "store"
