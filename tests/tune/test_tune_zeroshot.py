"""Zero-shot heads: open_clip's own classifier, computed here without nmtool; templates; refusals."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from conftest import TINY_CLIP, Given
from safetensors.torch import load_file
from tune_samples import results, table, tune

from nmtool.artifact.open import open_artifact
from nmtool.artifact.typed import read_features
from nmtool.errors import DataError, InputMissingError, UsageError
from nmtool.numerics.prompts import prototypes

TEMPLATES = ("a photo of a {}.", "a drawing of the {}, a {}.")


def theirs(weights: Path, classes: list[str], templates: tuple[str, ...]) -> tuple[Any, Any]:
    """Classifier [D, C] as open_clip builds it, and the logit scale."""
    model = open_clip.create_model("ViT-B-32", pretrained=str(weights), **TINY_CLIP).eval()
    classifier = open_clip.build_zero_shot_classifier(
        model,
        tokenizer=open_clip.get_tokenizer("ViT-B-32"),
        classnames=classes,
        templates=[lambda name, t=t: t.replace("{}", name) for t in templates],
    )
    return classifier.detach(), model.logit_scale.exp().detach()


def test_it_is_open_clips_own_classifier(clip: Given, clip_weights: Path, store: Path) -> None:
    ref = tune(store, clip.features, method="zeroshot", template=TEMPLATES)
    data = read_features(open_artifact(clip.features.path), "test")
    classifier, scale = theirs(clip_weights, list(data.labels.classes), TEMPLATES)
    X = torch.nn.functional.normalize(torch.from_numpy(data.features.astype(np.float32)), dim=-1)
    wanted = scale * X @ classifier
    head = load_file(ref.path / "data" / "heads.safetensors")
    found = X @ head["run_0000.classifier.weight"].T + head["run_0000.classifier.bias"]
    assert (found - wanted).abs().max() <= 1e-5 * float(scale)
    assert wanted.std() > 1e-3
    predictions = table(ref, "predictions.parquet")
    assert np.mean(predictions["predicted"] == wanted.argmax(1).numpy()) > 0.99
    np.testing.assert_allclose(predictions["confidence"], wanted.softmax(1).max(1).values, atol=1e-4)
    row = results(ref)[0]
    assert (row["n_train"], row["train_accuracy"], row["templates"]) == (0, None, " | ".join(TEMPLATES))


def test_prototypes_by_hand() -> None:
    embeddings = torch.tensor([[[3.0, 0.0], [0.0, 5.0]], [[2.0, 0.0], [-1.0, 0.0]]])
    half = 0.5**0.5
    assert torch.allclose(prototypes(embeddings), torch.tensor([[half, half], [0.0, 0.0]]))


def test_through_the_command_line(clip: Given, ok: Callable[..., Any], tmp_path: Path) -> None:
    """A file of templates is the templates; a hit needs no tower; predict and export take the head."""
    features = clip.features.path
    (tmp_path / "prompts.txt").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(TEMPLATES).encode() + b"\r\n\r\n")
    first = ok("tune", features, "--method", "zeroshot", "--template", tmp_path / "prompts.txt", "-o", "heads")
    argv = [a for t in TEMPLATES for a in ("--template", t)]
    again = ok("tune", features, "--method", "zeroshot", *argv, "--json", "-o", "heads")
    assert first.path.name == "heads"
    assert again.json["cached"] is True
    assert again.json["results"][0]["method"] == "zeroshot"
    told = ok("predict", tmp_path / "heads", f"{features}:test", "-o", "p.parquet", "--json").json
    assert told["results"][0]["accuracy"] == pytest.approx(again.json["results"][0]["accuracy"])
    ok("export", tmp_path / "heads", "--format", "torch", "-o", "head.safetensors")
    meta = json.loads((tmp_path / "heads" / "manifest.json").read_text())
    assert meta["config"]["template"] == list(TEMPLATES)


def test_of_several_seeds_there_is_one_run(clip: Given, ok: Callable[..., Any], tmp_path: Path) -> None:
    """Nothing is drawn: no mean and deviation of equal runs; labels and shares are still lines of their own."""
    features = clip.features.path
    argv = ("tune", features, "--template", TEMPLATES[0], "--epochs", "2", "--json")
    ran = ok(*argv, "--method", "zeroshot", "--seeds", "4,5,6")
    assert [(r["run"], r["seed"]) for r in ran.json["results"]] == [(0, 4)]
    assert "zeroshot: one run, of seed 4; nothing is drawn, and runs of seeds 5, 6 would equal it" in ran.err
    alone = ok(*argv, "--method", "zeroshot", "--seed", "4")
    assert (alone.json["key"], alone.json["cached"]) == (ran.json["key"], True)
    assert "one run" not in alone.err
    both = ok(*argv, "--method", "lp,zeroshot", "--seeds", "4,5", "--fraction", "0.5,1", "--labels", clip.labels.path)
    rows = both.json["results"]
    assert [(r["method"], r["seed"], r["fraction"]) for r in rows] == [
        *(("lp", seed, share) for share in (0.5, 1.0) for seed in (4, 5)),
        *(("zeroshot", 4, share) for share in (0.5, 1.0)),
    ]
    assert len({r["accuracy"] for r in rows if r["method"] == "zeroshot"}) == 1
    body = json.loads((tmp_path / both.json["artifact"] / "manifest.json").read_text())
    assert body["recipe"]["config"]["one_seed"] == ["zeroshot"]


def test_refusals(clip: Given, pixels: Given, encoded: Given, store: Path, tmp_path: Path) -> None:
    for given in (pixels, encoded):
        with pytest.raises(UsageError, match="projected features of open_clip's image tower"):
            tune(store, given.features, method="zeroshot")
    with pytest.raises(InputMissingError, match="is no file"):
        tune(store, clip.features, method="zeroshot", template=("a photo",))
    with pytest.raises(UsageError, match="twice"):
        tune(store, clip.features, method="zeroshot", template=("a {}", "a {}"))
    with pytest.raises(UsageError, match="--search with --method zeroshot"):
        tune(store, clip.features, method="zeroshot", search=True)
    (tmp_path / "empty.txt").write_text("\n\n")
    for empty in ("", " ", str(tmp_path / "empty.txt")):
        with pytest.raises(UsageError, match="--template is empty"):
            tune(store, clip.features, method="zeroshot", template=(empty,))
    (tmp_path / "bare.txt").write_text("a {}\na photo\n")
    with pytest.raises(UsageError, match="has the line 'a photo'"):
        tune(store, clip.features, method="zeroshot", template=(str(tmp_path / "bare.txt"),))
    assert not store.exists()


def test_other_weights_are_refused_before_work(clip: Given, other_clip_weights: Path, store: Path) -> None:
    with pytest.raises(DataError, match="the weights of"):
        tune(store, clip.features, method="zeroshot", model=str(other_clip_weights))
    with pytest.raises(InputMissingError, match="--model"):
        tune(store, clip.features, method="zeroshot", model=str(other_clip_weights.parent / "gone.safetensors"))
