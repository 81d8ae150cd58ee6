"""``suite:glue-x/TASK``: every out-of-domain set in its own layout, with the labels of the GLUE task it tests."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from glue_samples import BEYOND, CLASSES, save_to_disk, write, write_glue, write_gluex
from suite_checks import check_rows, opened, refused

from nmtool.errors import NmtoolError


@pytest.mark.parametrize("task", BEYOND)
def test_every_set_is_read_with_the_labels_of_its_task(tmp_path: Path, task: str) -> None:
    dataset = check_rows(f"suite:glue-x/{task}", write_gluex(tmp_path))
    assert dataset.classes == CLASSES[task]
    assert set(dataset.splits) == {f"{name}/test" for name in BEYOND[task]}
    for name, rows in BEYOND[task].items():
        split = f"{name}/test"
        assert [dataset.text(split, row) for row in range(len(rows))] == [texts for texts, _ in rows]
        targets = dataset.targets(split)
        found = dataset.splits[split].labels.values if targets is None else targets
        assert found.tolist() == [label for _, label in rows]
        assert (targets is None) == (task != "stsb")
    assert any("officially" in remark for remark in dataset.remarks)


def test_one_set_can_be_named_alone(tmp_path: Path) -> None:
    write_gluex(tmp_path)
    alone = opened("suite:glue-x/mnli/snli", tmp_path)
    whole = opened("suite:gluex/mnli", tmp_path)
    assert set(alone.splits) == {"snli/test"}
    assert alone.splits["snli/test"].digest == whole.splits["snli/test"].digest
    (tmp_path / "SICK" / "SICK.txt").unlink()
    opened("suite:glue-x/mnli/snli", tmp_path)
    refused("suite:glue-x/mnli", tmp_path, 66, "SICK/SICK.txt is not there")


def test_a_folder_of_its_own_and_the_data_root_are_searched(tmp_path: Path) -> None:
    plain = opened("suite:glue-x/rte", write_gluex(tmp_path / "a"))
    write_gluex(tmp_path / "b")
    (tmp_path / "b" / "GLUE-X").mkdir()
    (tmp_path / "b" / "hans").rename(tmp_path / "b" / "GLUE-X" / "hans")
    mixed = opened("suite:glue-x/rte", tmp_path / "b")
    for split, index in plain.splits.items():
        assert mixed.splits[split].digest == index.digest
    assert opened("suite:glue-x/mrpc", tmp_path / "b").splits.keys() == {"qqp/test"}


def test_snli_as_tsv_is_the_same(tmp_path: Path) -> None:
    lines = opened("suite:glue-x/mnli/snli", write_gluex(tmp_path))
    for part in ("train", "dev", "test"):
        path = tmp_path / f"snli_1.0/snli_1.0_{part}.jsonl"
        bodies = [json.loads(line) for line in path.read_text().splitlines()]
        rows = ["\t".join((b["gold_label"], "(x)", b["sentence1"], b["sentence2"], "l1")) for b in bodies]
        write(path.with_suffix(".txt"), "\n".join(["gold_label\tparse\tsentence1\tsentence2\tlabel1", *rows, ""]))
        path.unlink()
    table = opened("suite:glue-x/mnli/snli", tmp_path)
    assert table.splits["snli/test"].digest == lines.splits["snli/test"].digest


def test_the_released_sets_as_tsv_are_the_same(tmp_path: Path) -> None:
    saved = opened("suite:glue-x/qnli", write_gluex(tmp_path))
    (tmp_path / "qnli_ood").rename(tmp_path / "away")
    rows = [(*texts, CLASSES["qnli"][int(label)]) for texts, label in BEYOND["qnli"]["newsqa"]]
    write(tmp_path / "qnli_ood.tsv", "\n".join(["question\tsentence\tlabel", *("\t".join(row) for row in rows), ""]))
    assert opened("suite:glue-x/qnli", tmp_path).splits["newsqa/test"].digest == saved.splits["newsqa/test"].digest


def _swap(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def _more(root: Path, place: str) -> None:
    write(root / place, "x")


HANS, SCITAIL, SNLI = "hans/heuristics_train_set.txt", "SciTailV1.1/tsv_format/scitail_1.0_dev.tsv", "snli_1.0/snli_1.0"
SAVED = "cola_ood/state.json"
HOSTILE: dict[str, tuple[str, Callable[[Path], object], int, tuple[str, ...]]] = {
    "hans without a part": ("rte", lambda r: (r / HANS).unlink(), 66, ("heuristics_train_set.txt", "GLUE-X/")),
    "hans with another class": ("rte", lambda r: _swap(r / HANS, "non-entailment", "neutral"), 65, (HANS, "'neutral'")),
    "hans with another header": ("rte", lambda r: _swap(r / HANS, "sentence2", "s2"), 65, (HANS, "'sentence2'")),
    "scitail without a part": ("rte", lambda r: (r / SCITAIL).unlink(), 66, ("scitail_1.0_dev.tsv",)),
    "scitail with a cut row": ("rte", lambda r: _swap(r / SCITAIL, "\tentails", ""), 65, ("line 1, has 2 fields",)),
    "scitail with another class": ("rte", lambda r: _swap(r / SCITAIL, "entails", "entailment"), 65, ("'entailment'",)),
    "sick off its scale": ("stsb", lambda r: _swap(r / "SICK/SICK.txt", "4.5", "0.5"), 65, ("line 2", "1 to 5")),
    "sick with another class": ("mnli", lambda r: _swap(r / "SICK/SICK.txt", "NEUTRAL", "Neutral"), 65, ("'Neutral'",)),
    "no sick": ("stsb", lambda r: (r / "SICK").rename(r / "S"), 66, ("no folder SICK", "SICK/SICK.txt")),
    "snli without a part": ("mnli", lambda r: (r / f"{SNLI}_dev.jsonl").unlink(), 66, ("snli_1.0_dev.jsonl",)),
    "snli with cut JSON": ("mnli", lambda r: _truncate(r / f"{SNLI}_test.jsonl"), 65, ("snli_1.0_test.jsonl, line 1",)),
    "snli with another class": ("mnli", lambda r: _swap(r / f"{SNLI}_dev.jsonl", "entailment", "e"), 65, ("'e'",)),
    "imdb without a folder": ("sst2", lambda r: (r / "aclImdb/test/pos").rename(r / "p"), 66, ("aclImdb/test/pos",)),
    "imdb with a foreign file": ("sst2", lambda r: _more(r, "aclImdb/test/pos/x.txt"), 65, ("aclImdb/test/pos/x.txt",)),
    "imdb with a wrong rating": ("sst2", lambda r: _more(r, "aclImdb/test/pos/1_2.txt"), 65, ("pos/1_2.txt", "7")),
    "imdb with an empty folder": ("sst2", lambda r: (r / "aclImdb/test/pos/0_10.txt").unlink(), 66, ("test/pos",)),
    "no grammar test": ("cola", lambda r: (r / "cola_ood").rename(r / "x"), 66, ("no cola_ood",)),
    "no state": ("cola", lambda r: (r / SAVED).unlink(), 66, (SAVED,)),
    "a state of another kind": ("cola", lambda r: (r / SAVED).write_text("[]"), 65, ("state.json",)),
    "a path that climbs": ("cola", lambda r: _swap(r / SAVED, "data-00000", "../away/data-00000"), 65, ("'../away/",)),
    "an absolute path": ("cola", lambda r: _swap(r / SAVED, "data-00000", "/etc/data"), 65, ("'/etc/data",)),
    "a part gone": (
        "cola",
        lambda r: (r / "cola_ood/data-00001-of-00002.arrow").unlink(),
        66,
        ("data-00001-of-00002",),
    ),
    "a part damaged": (
        "cola",
        lambda r: (r / "cola_ood/data-00001-of-00002.arrow").write_bytes(b"x" * 99),
        65,
        ("00001",),
    ),
    "rows picked by a file that is not there": (
        "cola",
        lambda r: _swap(r / SAVED, "{", '{"_indices_data_files": [{"filename": "i"}], '),
        66,
        ("i is not there",),
    ),
    "another class": (
        "cola",
        lambda r: save_to_disk(r / "cola_ood", {"sentence": ["a"], "label": [2]}),
        65,
        ("cola_ood, row 0", "'2'"),
    ),
    "no text": (
        "qnli",
        lambda r: save_to_disk(r / "qnli_ood", {"question": [None], "sentence": ["b"], "label": [0]}),
        65,
        ("qnli_ood, row 0",),
    ),
    "another column": (
        "qnli",
        lambda r: save_to_disk(r / "qnli_ood", {"question": ["a"], "context": ["b"], "label": [0]}),
        65,
        ("'sentence'", "question, context, label"),
    ),
    "no QQP": ("mrpc", lambda r: (r / "GLUE/QQP").rename(r / "Q"), 66, ("no folder QQP",)),
    "no mismatched": ("mnli", lambda r: (r / "GLUE/MNLI/dev_mismatched.tsv").unlink(), 66, ("dev_mismatched.tsv",)),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_wrong_files_are_refused_by_name(tmp_path: Path, case: str) -> None:
    task, spoil, code, words = HOSTILE[case]
    write_gluex(tmp_path)
    spoil(tmp_path)
    refused(f"suite:glue-x/{task}", tmp_path, code, *words)


def test_no_cut_of_a_saved_set_passes(tmp_path: Path) -> None:
    """An Arrow stream that ends early may read as fewer rows: its end mark has to be there."""
    write_gluex(tmp_path)
    path = tmp_path / "cola_ood" / "data-00000-of-00002.arrow"
    sound = path.read_bytes()
    for length in range(0, len(sound), 4):
        path.write_bytes(sound[:length])
        refused("suite:glue-x/cola", tmp_path, 65, path.name)
    path.write_bytes(sound)
    opened("suite:glue-x/cola", tmp_path)


def test_a_task_has_to_be_named(tmp_path: Path) -> None:
    write_gluex(tmp_path)
    refused("suite:glue-x", tmp_path, 2, "datasets", "suite:glue-x/cola, suite:glue-x/sst2")
    refused("suite:glue-x/cola/grammar", tmp_path, 2, "no member")


def test_on_the_command_line(nmtool: Callable, tmp_path: Path) -> None:
    write_gluex(tmp_path)
    flip = ("inject-noise", "suite:glue-x/rte", "--type", "symmetric", "--ratio", "0.5", "--data-root", tmp_path)
    ran = nmtool(*flip, "--split", "hans/test", "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["n"], ran.json["classes"]) == (3, 2)
    (tmp_path / HANS).unlink()
    ran = nmtool(*flip, "--split", "hans/test")
    assert ran.code == 66
    assert "heuristics_train_set.txt" in ran.err
    assert "SciTailV1.1/" in ran.err


def test_damage_anywhere_is_told_or_harmless(tmp_path: Path) -> None:
    """Bytes changed, cut or doubled at random in any file: an error of ours, or a dataset that differs or does not."""
    write_glue(write_gluex(tmp_path))
    rng = np.random.default_rng(7)
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file() and "unsup" not in path.parts)
    uris = [f"suite:glue-x/{task}" for task in BEYOND] + [f"suite:glue/{task}" for task in CLASSES]
    for uri in uris:
        opened(uri, tmp_path)
    told: list[int] = []
    for path in files * 2:
        sound = path.read_bytes()
        place = int(rng.integers(len(sound)))
        kind = rng.integers(3)
        changed = bytes([int(rng.integers(256))]) if kind == 0 else b"" if kind == 1 else sound[place : place + 9] * 2
        path.write_bytes(sound[:place] + changed + (sound[place + 1 :] if rng.integers(2) else b""))
        for uri in uris:
            try:
                for index in opened(uri, tmp_path).splits.values():
                    assert index.digest.startswith("sha256:")
            except NmtoolError as error:
                told.append(error.exit_code)
        path.write_bytes(sound)
    assert set(told) <= {65, 66}
    assert len(told) > len(files) / 2
