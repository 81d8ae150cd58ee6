"""``suite:glue/TASK``: the official TSV files with their oddities, and the Parquet files, give the same rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
from glue_samples import CLASSES, FOLDERS, GLUE, MNLI_FILES, write_glue, write_parquet
from suite_checks import check_rows, opened, refused

from nmtool.data.dataset import Dataset
from nmtool.errors import UsageError


def rows_of(dataset: Dataset, split: str) -> list[tuple[tuple[str, ...], float]]:
    index, targets = dataset.splits[split], dataset.targets(split)
    values = index.labels.values if targets is None else targets
    return [(dataset.text(split, row), float(values[row])) for row in range(len(index))]


@pytest.mark.parametrize("task", GLUE)
def test_every_task_is_read_as_it_was_written(tmp_path: Path, task: str) -> None:
    dataset = check_rows(f"suite:glue/{task}", write_glue(tmp_path))
    assert dataset.kind == "text"
    assert dataset.classes == CLASSES[task]
    assert set(dataset.splits) == set(GLUE[task])
    for split, rows in GLUE[task].items():
        assert rows_of(dataset, split) == [(texts, float(label)) for texts, label in rows]
        assert list(dataset.splits[split].ids) == [f"{split}/{row:06d}" for row in range(len(rows))]
        if task == "stsb":
            assert (dataset.splits[split].labels.values == -1).all()
        else:
            assert dataset.targets(split) is None
    assert any("officially" in remark for remark in dataset.remarks)


@pytest.mark.parametrize("task", GLUE)
def test_parquet_files_are_the_same_dataset(tmp_path: Path, task: str) -> None:
    tabbed = opened(f"suite:glue/{task}", write_glue(tmp_path / "a"))
    stored = check_rows(f"suite:glue/{task}", write_parquet(tmp_path / "b", task, shards=2))
    assert stored.classes == tabbed.classes
    for split, index in tabbed.splits.items():
        assert stored.splits[split].digest == index.digest


def test_paraphrases_as_published_are_split_by_the_list_of_dev_pairs(tmp_path: Path) -> None:
    usual = opened("suite:glue/mrpc", write_glue(tmp_path / "a", ["mrpc"]))
    folder = tmp_path / "b" / "GLUE" / "MRPC"
    folder.mkdir(parents=True)
    # train and dev rows in one file, in this order: train, dev, train, dev, train
    order = [("train", 0), ("val", 0), ("train", 1), ("val", 1), ("train", 2)]
    lines = ["Quality\t#1 ID\t#2 ID\t#1 String\t#2 String"]
    for number, (split, row) in enumerate(order):
        texts, label = GLUE["mrpc"][split][row]
        lines.append("\t".join((str(label), f"7{number}", f"8{number}", *texts)))
    (folder / "msr_paraphrase_train.txt").write_text("\ufeff" + "\r\n".join(lines) + "\r\n", newline="")
    (folder / "dev_ids.tsv").write_text("71\t81\n73\t83\n")
    published = opened("suite:glue/mrpc", tmp_path / "b")
    for split in ("train", "val"):
        assert published.splits[split].digest == usual.splits[split].digest
    (folder / "dev_ids.tsv").write_text("71\t81\n75\t83\n")
    refused("suite:glue/mrpc", tmp_path / "b", 65, "dev_ids.tsv lists 2 pairs", "has 1 of them")
    (folder / "dev_ids.tsv").unlink()
    refused("suite:glue/mrpc", tmp_path / "b", 66, "MRPC/dev_ids.tsv is not there")


def test_questions_that_a_line_break_cut_are_left_out(tmp_path: Path) -> None:
    whole = opened("suite:glue/qqp", write_glue(tmp_path))
    path = tmp_path / "GLUE" / "QQP" / "train.tsv"
    lines = path.read_text().splitlines()
    lines[2:2] = ["7\t8\t9\tHow does", " one go on?\tWhy?\t1"]
    path.write_text("\n".join(lines) + "\n")
    assert opened("suite:glue/qqp", tmp_path).splits["train"].digest == whole.splits["train"].digest
    path.write_text("\n".join([*lines, "1\t2\t3\tone\ttwo\t1\tand one more"]) + "\n")
    refused("suite:glue/qqp", tmp_path, 65, "QQP/train.tsv, line 7, has 7 fields", "6")


def _line(path: Path, number: int, text: str) -> None:
    lines = path.read_text().split("\n")
    lines[number - 1] = text
    path.write_text("\n".join(lines))


HOSTILE: dict[str, tuple[str, Callable[[Path], object], int, tuple[str, ...]]] = {
    "no train file": ("cola", lambda g: (g / "CoLA/train.tsv").unlink(), 66, ("CoLA/train.tsv", "GLUE/", "SST-2/")),
    "no dev file": ("rte", lambda g: (g / "RTE/dev.tsv").unlink(), 66, ("RTE/dev.tsv is not there",)),
    "no mismatched file": (
        "mnli",
        lambda g: (g / f"MNLI/{MNLI_FILES['mismatched/val']}").unlink(),
        66,
        ("mismatched",),
    ),
    "a header where none is": ("cola", lambda g: _line(g / "CoLA/dev.tsv", 1, "sentence\tlabel"), 65, ("dev.tsv", "4")),
    "unknown number": ("cola", lambda g: _line(g / "CoLA/dev.tsv", 2, "x\t2\t\tA."), 65, ("dev.tsv, line 2", "'2'")),
    "unknown word": ("rte", lambda g: _line(g / "RTE/train.tsv", 2, "0\ta\tb\tmaybe"), 65, ("line 2", "'maybe'")),
    "score too high": ("stsb", lambda g: _line(g / "STS-B/dev.tsv", 2, "\t" * 9 + "5.2"), 65, ("line 2", "'5.2'")),
    "score not a number": ("stsb", lambda g: _line(g / "STS-B/dev.tsv", 2, "\t" * 9 + "nan"), 65, ("'nan'", "0 to 5")),
    "a cut row": ("sst2", lambda g: _line(g / "SST-2/train.tsv", 3, "half a row"), 65, ("line 3", "1 fields")),
    "another header": ("qnli", lambda g: _line(g / "QNLI/dev.tsv", 1, "id\tq\ts\tl"), 65, ("'question'", "QNLI/")),
    "no UTF-8": (
        "sst2",
        lambda g: (g / "SST-2/dev.tsv").write_bytes(b"sentence\tlabel\nna\xefve\t1\n"),
        65,
        ("line 2",),
    ),
    "no rows": ("sst2", lambda g: (g / "SST-2/dev.tsv").write_text("sentence\tlabel\n"), 65, ("val", "no samples")),
    "an empty file": ("sst2", lambda g: (g / "SST-2/dev.tsv").write_bytes(b""), 65, ("SST-2/dev.tsv", "'sentence'")),
    "no folder": ("cola", lambda g: (g / "CoLA").rename(g / "COLA-old"), 66, ("CoLA", "GLUE/")),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_wrong_files_are_refused_by_name(tmp_path: Path, case: str) -> None:
    task, spoil, code, words = HOSTILE[case]
    write_glue(tmp_path)
    spoil(tmp_path / "GLUE")
    refused(f"suite:glue/{task}", tmp_path, code, *words)


def test_wrong_parquet_files_are_refused_by_name(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path, "cola", shards=2) / "glue" / "cola"
    first = folder / "train-00000-of-00002.parquet"
    sound = first.read_bytes()
    first.write_bytes(sound[: len(sound) // 2])
    refused("suite:glue/cola", tmp_path, 65, "train-00000-of-00002.parquet")
    first.unlink()
    refused("suite:glue/cola", tmp_path, 66, "train-00000-of-00002.parquet is not there")
    for body, words in (
        ({"sentence": ["a"], "label": [2]}, ("row 0", "0 to 1")),
        ({"sentence": ["a"], "label": [-1]}, ("row 0", "-1")),
        ({"sentence": [None], "label": [1]}, ("without text",)),
        ({"text": ["a"], "label": [1]}, ("'sentence'",)),
    ):
        pa.parquet.write_table(pa.table(body), first)
        refused("suite:glue/cola", tmp_path, 65, *words)


def test_a_task_has_to_be_named(tmp_path: Path) -> None:
    write_glue(tmp_path)
    refused("suite:glue", tmp_path, 2, "is 8 datasets", "suite:glue/cola, suite:glue/sst2")
    refused("suite:glue", tmp_path / "nowhere", 2, "is 8 datasets")
    with pytest.raises(UsageError, match="did you mean suite:glue/mnli"):
        opened("suite:glue/mnlii", tmp_path)


def test_on_the_command_line(nmtool: Callable, tmp_path: Path) -> None:
    write_glue(tmp_path)
    flip = ("inject-noise", "suite:glue/sst2", "--type", "symmetric", "--ratio", "0.5", "--data-root", tmp_path)
    ran = nmtool(*flip, "--json")
    assert ran.code == 0, ran.err
    assert (ran.json["n"], ran.json["classes"]) == (3, 2)
    assert "officially 67349" in ran.err
    (tmp_path / "GLUE" / "SST-2" / "train.tsv").unlink()
    ran = nmtool(*flip)
    assert ran.code == 66
    assert "SST-2/train.tsv" in ran.err
    assert "MNLI/" in ran.err
    ran = nmtool(*[str(each).replace("/sst2", "") for each in flip])
    assert (ran.code, ran.out) == (2, "")


def test_sizes_are_those_of_the_official_data() -> None:
    """Against the sizes that Hugging Face states for nyu-mll/glue."""
    from nmtool.data.suites.glue import GLUE_TASKS

    stated = {
        **{"cola": [8_551, 1_043], "sst2": [67_349, 872], "mrpc": [3_668, 408], "stsb": [5_749, 1_500]},
        **{"qqp": [363_846, 40_430], "mnli": [392_702, 9_815], "qnli": [104_743, 5_463], "rte": [2_490, 277]},
    }
    for suite in GLUE_TASKS:
        assert [suite.splits["train"], suite.splits["val"]] == stated[suite.name.removeprefix("glue/")]
    metrics = {suite.name.removeprefix("glue/"): suite.metric for suite in GLUE_TASKS}
    assert {name: metric for name, metric in metrics.items() if metric != "accuracy"} == {
        "cola": "matthews",
        "stsb": "pearson",
    }
    assert [suite.title for suite in GLUE_TASKS] == list(FOLDERS.values())
