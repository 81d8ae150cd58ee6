"""The real sentences, written back into the official layouts: whole tasks of GLUE, with no remark on their sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from suite_checks import opened


@pytest.fixture
def text(real_data: Callable[[str], Path]) -> Path:
    return real_data("text") / "text"


def rows(path: Path) -> Iterator[dict[str, str]]:
    lines = path.read_text(encoding="utf-8").split("\n")
    names = lines[0].split("\t")
    for line in filter(None, lines[1:]):
        yield dict(zip(names, line.split("\t"), strict=True))


def write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def as_official(source: Path, root: Path) -> dict[str, dict[str, list[dict[str, str]]]]:
    """GLUE's own columns around the real sentences; what was written, by task and split."""
    found: dict[str, dict[str, list[dict[str, str]]]] = {}
    for task, folder in (("cola", "CoLA"), ("sst2", "SST-2"), ("stsb", "STS-B"), ("rte", "RTE")):
        for split, name in (("train", "train"), ("val", "dev")):
            body = list(rows(source / task / f"{name}.tsv"))
            found.setdefault(task, {})[split] = body
            if task == "cola":
                lines = [f"gj04\t{row['label']}\t\t{row['sentence']}" for row in body]
            elif task == "sst2":
                lines = ["sentence\tlabel", *(f"{row['sentence']}\t{row['label']}" for row in body)]
            elif task == "rte":
                both = (f"{k}\t{row['sentence1']}\t{row['sentence2']}\t{row['label']}" for k, row in enumerate(body))
                lines = ["index\tsentence1\tsentence2\tlabel", *both]
            else:
                head = ["index", "genre", "filename", "year", "old_index", "source1", "source2"]
                head += ["sentence1", "sentence2", "score"]
                cells = (
                    [k, row["genre"], "MSRvid", "2012", k, "none", "none", *(row[n] for n in head[-3:])]
                    for k, row in enumerate(body)
                )
                lines = ["\t".join(head), *("\t".join(map(str, row)) for row in cells)]
            write(root / "GLUE" / folder / f"{name}.tsv", lines)
    return found


def test_whole_tasks_have_their_official_sizes(text: Path, tmp_path: Path) -> None:
    written = as_official(text, tmp_path)
    for task, splits in written.items():
        dataset = opened(f"suite:glue/{task}", tmp_path)
        assert dataset.remarks == (), task
        for split, body in splits.items():
            parts = [name for name in ("sentence", "sentence1", "sentence2") if name in body[0]]
            for row in range(0, len(body), 97):
                assert dataset.text(split, row) == tuple(body[row][name] for name in parts)
            values = dataset.splits[split].labels.values
            if task == "stsb":
                assert dataset.targets(split).tolist() == [float(row["score"]) for row in body]
            else:
                label = {"entailment": "0", "not_entailment": "1"}
                assert values.tolist() == [int(label.get(row["label"], row["label"])) for row in body]


def test_the_shares_of_the_classes_are_the_known_ones(text: Path, tmp_path: Path) -> None:
    """CoLA: 70.4 % acceptable in train (Warstadt et al. 2019 say about 70 %); RTE and SST-2 are near balance."""
    as_official(text, tmp_path)
    share = {}
    for task in ("cola", "sst2", "rte"):
        labels = opened(f"suite:glue/{task}", tmp_path).splits["train"].labels.values
        share[task] = float(np.mean(labels == 1))
    assert abs(share["cola"] - 0.70) < 0.01
    assert abs(share["rte"] - 0.5) < 0.01
    assert abs(share["sst2"] - 0.5) < 0.07


def test_real_sentences_out_of_domain(text: Path, tmp_path: Path) -> None:
    sick = list(rows(text / "rte" / "ood_sick.tsv"))
    scores = [row["score"] for row in rows(text / "stsb" / "ood_sick.tsv")]
    lines = ["pair_ID\tsentence_A\tsentence_B\tentailment_label\trelatedness_score"]
    for k, (row, score) in enumerate(zip(sick, scores, strict=True)):
        lines.append("\t".join((str(k), row["sentence1"], row["sentence2"], row["relation"].upper(), score)))
    write(tmp_path / "SICK" / "SICK.txt", lines)
    hans = list(rows(text / "rte" / "ood_hans_regenerated.tsv"))
    for part, body in (("train", hans[::2]), ("evaluation", hans[1::2])):
        head = "gold_label\tsentence1\tsentence2\theuristic"
        word = {"entailment": "entailment", "not_entailment": "non-entailment"}
        cells = ("\t".join((word[r["label"]], r["sentence1"], r["sentence2"], r["heuristic"])) for r in body)
        write(tmp_path / "hans" / f"heuristics_{part}_set.txt", [head, *cells])

    relatedness = opened("suite:glue-x/stsb", tmp_path)
    assert relatedness.targets("sick/test").tolist() == [float(score) for score in scores]
    relations = opened("suite:glue-x/mnli/sick", tmp_path)
    words = np.array(relations.classes)[relations.splits["sick/test"].labels.values]
    assert words.tolist() == [row["relation"] for row in sick]
    pairs = opened("suite:glue-x/rte/hans", tmp_path)
    words = np.array(pairs.classes)[pairs.splits["hans/test"].labels.values]
    assert words.tolist() == [row["label"] for row in [*hans[::2], *hans[1::2]]]
    assert "officially 60000" in pairs.remarks[0]


def test_real_reviews(text: Path, tmp_path: Path) -> None:
    reviews = list(rows(text / "sst2" / "ood_imdb.tsv"))[:400]
    wanted = []
    for k, row in enumerate(reviews):
        folder = f"{'train' if k % 2 else 'test'}/{'pos' if row['label'] == '1' else 'neg'}"
        path = tmp_path / "aclImdb" / folder / f"{row['id']}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(row["sentence"], encoding="utf-8")
        wanted.append((row["sentence"], int(row["label"])))
    dataset = opened("suite:glue-x/sst2", tmp_path)
    labels = dataset.splits["imdb/test"].labels.values.tolist()
    found = [(dataset.text("imdb/test", row)[0], label) for row, label in enumerate(labels)]
    assert sorted(found) == sorted(wanted)
