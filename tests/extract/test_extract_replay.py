"""``verify --replay``: what is stored can be made again; what was changed, or can't be, is named."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from extract_samples import CONFIG, extract
from tokenizers import Tokenizer, models, pre_tokenizers

from nmtool.artifact.arrays import _bytes_of, _crc32c
from nmtool.artifact.format import TABLE, sha256, table_bytes
from nmtool.artifact.open import open_artifact
from nmtool.artifact.stage import Session
from nmtool.artifact.typed import read_features
from nmtool.errors import DataError, InputMissingError, UsageError
from nmtool.extract.replay import TOLERANCE, Asked, replay


def again(session: Session, path: Path, rows: int = 30, seed: int | None = 0, **changes: Any) -> Any:
    tolerance = changes.pop("tolerance", None)
    return replay(open_artifact(path), Asked(rows=rows, seed=seed, tolerance=tolerance, changes=changes), session)


def forge(path: Path, split: str, row: int, column: int, by: float) -> None:
    """Change one stored number, and every checksum and digest above it, as nobody would by accident."""
    artifact = open_artifact(path)
    table = read_features(artifact, split)
    block = np.array(table.features)
    block[row, column] += by
    name = f"data/features.zarr/{split}/features/c/0/0"
    file = path / name
    file.chmod(0o644)
    body = _bytes_of(np.ascontiguousarray(block))
    file.write_bytes(body.tobytes() + _crc32c([body]).to_bytes(4, "little"))
    entries = tuple(
        dataclasses.replace(e, sha256=sha256(file.read_bytes())) if e.path == name else e for e in artifact.files
    )
    new = table_bytes(entries)
    changed = dataclasses.replace(
        artifact.manifest, content=sha256(new), files={**artifact.manifest.files, "table_sha256": sha256(new)}
    )
    for target, data in ((path / TABLE, new), (path / "manifest.json", changed.to_bytes())):
        target.chmod(0o644)
        target.write_bytes(data)


@pytest.mark.parametrize(
    "change", [{}, {"dtype": "float16"}, {"dtype": "bfloat16"}, {"amp": "fp16"}, {"views": 2, "augment": "strong"}]
)
def test_untouched_features_are_made_again(photos: Path, session: Session, change: dict[str, Any]) -> None:
    """In batches of another composition than the store's: chosen rows, 5 a batch."""
    ref = extract(session, photos, **change)
    found = again(session, ref.path, rows=11)
    assert (len(found.rows), found.of, found.beyond) == (11, 30, ())
    assert len({(d.split, d.row) for d in found.rows}) == 11
    assert found.tolerance == TOLERANCE[change.get("amp", change.get("dtype", "float32"))]
    index = {split: read_features(open_artifact(ref.path), split).ids for split in ("train", "test")}
    assert all(index[d.split][d.row] == d.sample for d in found.rows)
    relative = [d.relative for d in found.rows]
    assert relative == sorted(relative, reverse=True)


def test_the_seed_chooses_the_rows_and_all_rows_are_within_reach(photos: Path, session: Session) -> None:
    path = extract(session, photos).path

    def rows(seed: int | None) -> set[tuple[str, int]]:
        return {(d.split, d.row) for d in again(session, path, rows=4, seed=seed).rows}

    assert rows(1) == rows(1)
    assert rows(1) != rows(2)
    drawn = again(session, path, rows=4, seed=None)
    assert rows(drawn.seed) == {(d.split, d.row) for d in drawn.rows}
    assert len(again(session, path, rows=1000).rows) == 30


def test_a_changed_number_is_found(photos: Path, session: Session) -> None:
    path = extract(session, photos).path
    forge(path, "train", 7, 3, 0.05)
    found = again(session, path)
    assert [(d.split, d.row) for d in found.beyond] == [("train", 7)]
    largest = np.abs(read_features(open_artifact(path), "train").features[7]).max()
    assert found.beyond[0].max_abs == pytest.approx(0.05, rel=1e-3)
    assert found.beyond[0].relative == pytest.approx(0.05 / largest, rel=0.1)
    assert again(session, path, tolerance=1.0).beyond == ()


def test_marked_rows_are_left_out(photos: Path, session: Session) -> None:
    (photos / "test" / "cat" / "001.jpg").write_bytes(b"no image")
    path = extract(session, photos, on_error="skip").path
    found = again(session, path)
    assert found.of == len(found.rows) == 29
    assert not found.beyond


def test_what_is_gone_or_changed_is_refused(photos: Path, session: Session, tmp_path: Path) -> None:
    path = extract(session, photos).path
    moved = tmp_path / "elsewhere"
    photos.rename(moved)
    with pytest.raises(InputMissingError, match="--data"):
        again(session, path)
    assert not again(session, path, data=f"folder:{moved}").beyond
    shutil.copy(moved / "test" / "cat" / "000.jpg", moved / "test" / "cat" / "001.jpg")
    with pytest.raises(DataError, match="other samples"):
        again(session, path, data=f"folder:{moved}")


def test_another_model_is_refused(photos: Path, session: Session) -> None:
    path = extract(session, photos).path
    with pytest.raises(DataError, match="the arch of timm:test_vit"):
        again(session, path, model="timm:test_vit")
    with pytest.raises(UsageError, match="--replay is 0"):
        again(session, path, rows=0)


def test_ready_made_features_are_taken_in_again(session: Session, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    file = tmp_path / "f.npz"
    np.savez(file, X_train=rng.standard_normal((40, 6)).astype(np.float32), y_train=np.arange(40) % 2)
    for dtype in ("float32", "float16"):
        ref = extract(session, f"arrays:{file}", model="none", untrained=False, image_size=None, dtype=dtype)
        found = again(session, ref.path, rows=40)
        assert (len(found.rows), found.rows[0].max_abs, found.tolerance) == (40, 0.0, 0.0)
    forge(extract(session, f"arrays:{file}", model="none", untrained=False, image_size=None).path, "train", 2, 0, 1e-6)
    path = extract(session, f"arrays:{file}", model="none", untrained=False, image_size=None).path
    assert [d.row for d in again(session, path, rows=40).beyond] == [2]


def test_texts_are_encoded_again(session: Session, tmp_path: Path) -> None:
    """Tokenized and batched with other texts than in the store."""
    config = transformers.GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        transformers.AutoModel.from_config(config).save_pretrained(tmp_path / "gpt2")
    tok = Tokenizer(models.WordLevel({"<u>": 0, "</s>": 1} | {w: k + 2 for k, w in enumerate("abcdefgh")}, "<u>"))
    tok.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tok, eos_token="</s>", model_max_length=32)
    fast.save_pretrained(tmp_path / "gpt2")
    rng = np.random.default_rng(0)
    lines = [f"{' '.join(rng.choice(list('abcdefgh'), int(rng.integers(1, 20))))}\t{k % 2}\ttrain" for k in range(40)]
    (tmp_path / "t.tsv").write_text("\n".join(["text\tlabel\tsplit", *lines]) + "\n")
    asked: dict[str, Any] = {"model": f"transformers:{tmp_path / 'gpt2'}", "untrained": False, "image_size": None}
    path = extract(session, f"table:{tmp_path / 't.tsv'}", **asked).path
    found = again(session, path, rows=13)
    assert (len(found.rows), found.of, found.beyond) == (13, 40, ())
    forge(path, "train", 9, 1, 0.01)
    assert [d.row for d in again(session, path, rows=40).beyond] == [9]


def test_the_command_line(photos: Path, ok: Callable[..., Any], nmtool: Callable[..., Any], tmp_path: Path) -> None:
    flags = ("--untrained", "--image-size", 32, "--split", "test", "--device", "cpu")
    path = ok("extract", CONFIG.model, f"folder:{photos}", *flags).path
    path = path if path.is_absolute() else tmp_path / path
    body = ok("verify", path, "--replay", 3, "--seed", 1, "--json").json
    assert (body["ok"], body["replay"]["rows"], body["replay"]["of"], body["replay"]["beyond"]) == (True, 3, 6, 0)
    assert {"split", "row", "sample", "max_abs", "relative"} == set(body["replay"]["drift"][0])
    assert "3 of 6 rows extracted again" in ok("verify", path, "--replay", 3).out
    forge(path, "test", 4, 0, 1.0)
    ran = nmtool("verify", path, "--replay", 6, "--json")
    assert ran.code == 76
    assert (ran.json["ok"], ran.json["replay"]["beyond"]) == (False, 1)
    assert ran.json["replay"]["drift"][0]["row"] == 4
    assert "differ from" in ran.err
    assert "Traceback" not in ran.err
    shutil.rmtree(photos)
    assert nmtool("verify", path, "--replay", 3).code == 66
    assert nmtool("verify", path, "--seed", 3).code == 2
    assert nmtool("verify", path).code == 0


def test_forging_is_what_the_checks_accept(photos: Path, session: Session) -> None:
    """The forger above leaves an artifact that every check but the replay lets pass."""
    from nmtool.artifact.open import verify

    path = extract(session, photos).path
    before = open_artifact(path).manifest.content
    forge(path, "test", 0, 0, 0.5)
    artifact = open_artifact(path)
    verify(artifact, (1, 1))
    assert artifact.manifest.content != before
