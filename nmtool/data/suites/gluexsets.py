"""The out-of-domain sets of GLUE-X, each read in its own official layout, with the labels of the GLUE task it tests.

Every reader is given the folders in which the set may lie, and returns its rows and the files they were read from. All
files of a set have to be there. The two sets that GLUE-X itself releases are read as its evaluation loads them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nmtool.data import files
from nmtool.data.suites import arrowed, glue
from nmtool.data.suites.gluefacts import COLA, MNLI, MRPC, QNLI, QQP, Task
from nmtool.data.suites.samples import Texts
from nmtool.data.suites.tabbed import Cells, bare, class_of, headed, lines, score_of
from nmtool.errors import DataError, InputMissingError
from nmtool.records import UNLABELLED

Found = tuple[Texts, list[Path]]
_REVIEW = re.compile(r"([0-9]{1,9})_([0-9]{1,2})\.txt")


def grammar_test(homes: Sequence[Path]) -> Found:
    """Grammar Test for CoLA."""
    return _released(homes, "cola_ood", COLA, ("sentence", "label"))


def newsqa(homes: Sequence[Path]) -> Found:
    """NewsQA, reconstructed, for QNLI."""
    return _released(homes, "qnli_ood", QNLI, ("question", "sentence", "label"))


def qqp(homes: Sequence[Path]) -> Found:
    """QQP for MRPC."""
    return _of_glue(homes, QQP, ("train", "val"))


def mrpc(homes: Sequence[Path]) -> Found:
    """MRPC for QQP."""
    return _of_glue(homes, MRPC, ("train", "val"))


def mnli_mismatched(homes: Sequence[Path]) -> Found:
    """MNLI's mismatched dev set."""
    return _of_glue(homes, MNLI, ("mismatched/val",))


def imdb(homes: Sequence[Path]) -> Found:
    """IMDB for SST-2: 25,000 reviews to train and as many to test, a file each, named by number and rating."""
    home = _home(homes, "aclImdb", "IMDB")
    texts: list[tuple[str, ...]] = []
    labels: list[int] = []
    paths: list[Path] = []
    for part in ("train", "test"):
        for label, feeling in enumerate(("neg", "pos")):
            for path in _reviews(home / part / feeling, f"aclImdb/{part}/{feeling}", label):
                name = f"aclImdb/{part}/{feeling}/{path.name}"
                texts.append(("\n".join(line for _, line in lines(path, name)),))
                labels.append(label)
                paths.append(path)
    return glue.made(texts, labels, []), paths


def _reviews(folder: Path, name: str, label: int) -> list[Path]:
    """The reviews of a folder by their numbers; a rating that contradicts the folder is refused."""
    with files.told(name):
        there = [path for path in folder.iterdir() if not path.name.startswith(".")]
    numbered: list[tuple[int, Path]] = []
    for path in there:
        found = _REVIEW.fullmatch(path.name)
        if not found:
            raise DataError(f"{name}/{path.name} in IMDB", "reviews alone, named NUMBER_RATING.txt")
        if (int(found[2]) >= 7) != bool(label) or int(found[2]) in (5, 6):
            raise DataError(f"{name}/{path.name} has the rating {found[2]}", "at least 7" if label else "at most 4")
        numbered.append((int(found[1]), path))
    if not numbered:
        raise InputMissingError(f"no review in {name}", "12,500 of them")
    return [path for _, path in sorted(numbered)]


def sick_inference(homes: Sequence[Path]) -> Found:
    """SICK for MNLI: its three relations."""
    words = {name.upper(): number for number, name in enumerate(MNLI.classes)}
    path, rows = _sick(homes, "entailment_label")
    return _labelled(rows, words, "SICK/SICK.txt"), [path]


def sick_relatedness(homes: Sequence[Path]) -> Found:
    """SICK for STS-B: relatedness from 1 to 5."""
    path, rows = _sick(homes, "relatedness_score")
    texts: list[tuple[str, ...]] = []
    scores: list[float] = []
    for number, (*parts, cell) in rows:
        texts.append(tuple(parts))
        scores.append(score_of(cell, f"SICK/SICK.txt, line {number}", 1, 5))
    return glue.made(texts, [], scores), [path]


def _sick(homes: Sequence[Path], column: str) -> tuple[Path, Iterator[Cells]]:
    path = _home(homes, "SICK", "SICK") / "SICK.txt"
    return path, headed(path, "SICK/SICK.txt", ("sentence_A", "sentence_B", column))


def snli(homes: Sequence[Path]) -> Found:
    """SNLI for MNLI; a pair on which the annotators did not agree (``-``) is unlabelled."""
    home = _home(homes, "snli_1.0", "SNLI")
    words = {**MNLI.words, "-": UNLABELLED}
    parts, paths = [], []
    for part in ("train", "dev", "test"):
        path = home / f"snli_1.0_{part}.jsonl"
        if path.is_file() or not path.with_suffix(".txt").is_file():
            rows = _json_rows(path, f"snli_1.0/{path.name}")
        else:
            path = path.with_suffix(".txt")
            rows = headed(path, f"snli_1.0/{path.name}", ("sentence1", "sentence2", "gold_label"))
        parts.append(_labelled(rows, words, f"snli_1.0/{path.name}"))
        paths.append(path)
    return _joined(parts), paths


def _json_rows(path: Path, name: str) -> Iterator[Cells]:
    for number, line in lines(path, name):
        try:
            body = json.loads(line)
            cells = [body[key] for key in ("sentence1", "sentence2", "gold_label")]
        except (ValueError, KeyError, TypeError):
            cells = []
        if not cells or not all(isinstance(cell, str) for cell in cells):
            raise DataError(f"{name}, line {number}", "an object with sentence1, sentence2 and gold_label")
        yield number, cells


def hans(homes: Sequence[Path]) -> Found:
    """HANS for RTE: its training and evaluation sets, 30,000 pairs each."""
    home = _home(homes, "hans", "HANS")
    words = {"entailment": 0, "non-entailment": 1}
    parts, paths = [], []
    for part in ("train", "evaluation"):
        path = home / f"heuristics_{part}_set.txt"
        rows = headed(path, f"hans/{path.name}", ("sentence1", "sentence2", "gold_label"))
        parts.append(_labelled(rows, words, f"hans/{path.name}"))
        paths.append(path)
    return _joined(parts), paths


def scitail(homes: Sequence[Path]) -> Found:
    """SciTail for RTE: premise, hypothesis and relation, without a header; quotes are characters."""
    home = _home(homes, "SciTailV1.1", "SciTail")
    words = {"entails": 0, "neutral": 1}
    parts, paths = [], []
    for part in ("train", "dev", "test"):
        path = home / "tsv_format" / f"scitail_1.0_{part}.tsv"
        name = f"SciTailV1.1/tsv_format/{path.name}"
        parts.append(_labelled(bare(path, name, 3), words, name))
        paths.append(path)
    return _joined(parts), paths


def _home(homes: Sequence[Path], folder: str, title: str) -> Path:
    for home in homes:
        if (home / folder).is_dir():
            return home / folder
    raise InputMissingError(f"no folder {folder} with {title}", "it, in GLUE-X/ or in the data root", "unpack it there")


def _of_glue(homes: Sequence[Path], task: Task, splits: Sequence[str]) -> Found:
    """Splits of a task of GLUE, one after the other."""
    roots = [root for home in homes for root in (home, home / "GLUE", home / "glue", home / "glue_data")]
    root = next((each for each in roots if (each / task.folder).is_dir() or (each / task.name).is_dir()), None)
    if root is None:
        raise InputMissingError(f"no folder {task.folder} of GLUE", "it, in GLUE/ of the data root", "unpack it there")
    found = [glue.read(root, task, split) for split in splits]
    return _joined([texts for texts, _ in found]), list(dict.fromkeys(path for _, paths in found for path in paths))


def _released(homes: Sequence[Path], folder: str, task: Task, columns: tuple[str, ...]) -> Found:
    """A set that GLUE-X releases: a folder of ``save_to_disk``, or a TSV file with the same columns."""
    for home in homes:
        if (home / folder).is_dir():
            found, paths = arrowed.saved(home / folder, columns)
            return _cells(found, task, folder), paths
        if (home / f"{folder}.tsv").is_file():
            path = home / f"{folder}.tsv"
            words = {**task.words, **{name: number for number, name in enumerate(task.classes)}}
            return _labelled(headed(path, path.name, columns), words, path.name), [path]
    raise InputMissingError(f"no {folder} of GLUE-X", f"{folder}/ or {folder}.tsv", "fetch it from GLUE-X's release")


def _cells(found: list[list[object]], task: Task, name: str) -> Texts:
    """Columns of texts and, last, labels: names or numbers of classes."""
    *parts, cells = found
    words = {word: number for number, word in enumerate(task.classes)} | {str(n): n for n in range(len(task.classes))}
    rows: list[Cells] = []
    for row, (*texts, cell) in enumerate(zip(*parts, cells, strict=True)):
        if not all(isinstance(text, str) for text in texts):
            raise DataError(f"{name}, row {row}, has no text", "text in every row")
        rows.append((row, [*map(str, texts), str(cell)]))
    return _labelled(rows, words, name, "row")


def _labelled(rows: Iterator[Cells] | list[Cells], words: Mapping[str, int], name: str, unit: str = "line") -> Texts:
    """Rows of texts and, last, a class's word."""
    texts: list[tuple[str, ...]] = []
    labels: list[int] = []
    for number, (*parts, cell) in rows:
        texts.append(tuple(parts))
        labels.append(class_of(cell, words, f"{name}, {unit} {number}"))
    return glue.made(texts, labels, [])


def _joined(parts: Sequence[Texts]) -> Texts:
    texts = [row for part in parts for row in part.texts]
    return glue.made(texts, [int(label) for part in parts for label in part.labels], [])
