"""GLUE: its eight tasks that the first paper tunes on, from the official folders of TSV files or as Parquet.

Splits are ``train`` and ``val``: GLUE's dev set, on which the paper evaluates (Table 12). GLUE's test set has no labels
and is not offered. Classes have the names that Hugging Face gives them, in the order of the official numbers; STS-B has
real numbers from 0 to 5 in place of classes. What each task is stands in ``gluefacts``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from nmtool.data.dataset import Dataset
from nmtool.data.suites import arrowed
from nmtool.data.suites.facts import Request, Suite
from nmtool.data.suites.gluefacts import MRPC, TASKS, Task
from nmtool.data.suites.samples import Texts, text_dataset
from nmtool.data.suites.tabbed import Cells, bare, class_of, headed, lines, score_of
from nmtool.errors import DataError, InputMissingError
from nmtool.records import UNLABELLED


def load(suite: Suite, request: Request) -> Dataset:
    """One task, the one that ``request.member`` names."""
    task = TASKS[request.member]
    facts = next(part for part in GLUE_TASKS if part.name == f"{suite.name}/{task.name}")
    found = {split: read(request.root, task, split) for split in task.parts}
    return text_dataset(
        facts,
        request,
        task.classes,
        {split: texts for split, (texts, _) in found.items()},
        inputs=[path for _, paths in found.values() for path in paths],
    )


def read(root: Path, task: Task, split: str) -> tuple[Texts, list[Path]]:
    """The rows of one split of a task, and the files they were read from.

    Args:
        root: the folder that holds the tasks' folders.
        task: one of ``TASKS``.
        split: one of its parts.

    Raises:
        InputMissingError: the folder or a file is not there.
        WrongLayout: a header or columns that are not the official ones.
        DataError: a row that is cut, an unknown class, a score off the scale.
    """
    home = _home(root, task)
    plain, shard = task.parts[split]
    name = f"{home.name}/{plain}"
    if (home / plain).is_file():
        return collected(_tabbed(home / plain, name, task), task, name), [home / plain]
    if task is MRPC and (home / "msr_paraphrase_train.txt").is_file():
        return _paraphrases(home, split)
    if paths := arrowed.shards(home, shard):
        return _parquet(paths, task), paths
    raise InputMissingError(f"{name} is not there", f"it, or {home.name}/{shard}-00000-of-00001.parquet")


def collected(rows: Iterable[Cells], task: Task, name: str) -> Texts:
    """Rows of texts and, last, a label's cell."""
    texts: list[tuple[str, ...]] = []
    labels: list[int] = []
    scores: list[float] = []
    for number, (*parts, cell) in rows:
        where = f"{name}, line {number}"
        texts.append(tuple(parts))
        if task.words:
            labels.append(class_of(cell, task.words, where))
        else:
            scores.append(score_of(cell, where, 0, 5))
    return made(texts, labels, scores)


def made(texts: list[tuple[str, ...]], labels: list[int], scores: list[float]) -> Texts:
    """Texts with class labels, or with scores."""
    if scores:
        return Texts(texts=texts, labels=[UNLABELLED] * len(texts), targets=np.array(scores, dtype=np.float64))
    return Texts(texts=texts, labels=np.array(labels, dtype=np.int64))


def _home(root: Path, task: Task) -> Path:
    for folder in (task.folder, task.name):
        if (root / folder).is_dir():
            return root / folder
    raise InputMissingError(f"no folder {task.folder} of GLUE", f"{task.folder}/ or {task.name}/ in it", "unpack it")


def _tabbed(path: Path, name: str, task: Task) -> Iterator[Cells]:
    if not task.header:  # CoLA: source, label, the author's mark, sentence
        for number, cells in bare(path, name, 4):
            yield number, [cells[3], cells[1]]
        return
    # QQP's own questions hold line breaks, which cut some rows in two; every reader leaves those out.
    yield from headed(path, name, task.columns, broken=task.name == "qqp")


def _paraphrases(home: Path, split: str) -> tuple[Texts, list[Path]]:
    """MRPC as Microsoft publishes it; which pairs are the dev set is listed in GLUE's ``dev_ids.tsv``."""
    pairs, listed = home / "msr_paraphrase_train.txt", home / "dev_ids.tsv"
    name = f"{home.name}/{pairs.name}"
    held = {tuple(line.strip().split("\t")) for _, line in lines(listed, f"{home.name}/{listed.name}")} - {("",)}
    kept: list[Cells] = []
    seen = 0
    for number, (one, other, *cells) in headed(pairs, name, ("#1 ID", "#2 ID", *MRPC.columns)):
        dev = (one, other) in held
        seen += dev
        if dev == (split == "val"):
            kept.append((number, cells))
    if seen != len(held):
        raise DataError(f"{home.name}/{listed.name} lists {len(held)} pairs and {name} has {seen} of them", "all")
    return collected(kept, MRPC, name), [pairs, listed]


def _parquet(paths: list[Path], task: Task) -> Texts:
    *parts, cells = arrowed.parquet(paths, task.parquet)
    name = f"{paths[0].parent.name}/{paths[0].name}"
    if not all(isinstance(text, str) for column in parts for text in column):
        raise DataError(f"{name} has a row without text", "text in every row")
    texts = list(zip(*parts, strict=True))
    if task.words:
        wrong = [row for row, cell in enumerate(cells) if not (isinstance(cell, int) and 0 <= cell < len(task.classes))]
        if wrong:
            raise DataError(f"{name}, row {wrong[0]}: the class {cells[wrong[0]]!r}", f"0 to {len(task.classes) - 1}")
        return made(texts, cells, [])
    return made(texts, [], [score_of(str(cell), f"{name}, row {row}", 0, 5) for row, cell in enumerate(cells)])


def _facts(task: Task) -> Suite:
    return Suite(
        name=f"glue/{task.name}",
        title=task.title,
        group="GLUE",
        kind="text",
        classes=len(task.classes),
        splits=task.sizes,
        metric=task.metric,
        source=task.source,
        tree="\n".join(["GLUE/", *(f"  {task.folder}/{plain}" for plain, _ in task.parts.values())]),
        witnesses=(task.folder, task.name),
        folders=_FOLDERS,
        load=load,
        note=task.note,
        protocol=_PROTOCOL,
    )


_FOLDERS = ("GLUE", "glue_data")
_PROTOCOL = "Heads are trained on train and judged on val, GLUE's dev set (Table 12)."

GLUE_TASKS: tuple[Suite, ...] = tuple(_facts(task) for task in TASKS.values())
"""The tasks, each as a suite of its own: what they are; they are opened as members of ``GLUE``."""

GLUE = Suite(
    name="glue",
    title="GLUE",
    group="GLUE",
    kind="text",
    classes=0,
    splits={},
    metric="none",
    source="Wang et al. 2018",
    tree="""
GLUE/                        as the archives unpack; or as Parquet files
  CoLA/   train.tsv dev.tsv    cola/train-00000-of-00001.parquet
  SST-2/  train.tsv dev.tsv         validation-00000-of-00001.parquet
  MRPC/   train.tsv dev.tsv    sst2/… mrpc/… stsb/… qqp/… qnli/… rte/…
  STS-B/  train.tsv dev.tsv    mnli/train-… validation_matched-…
  QQP/    train.tsv dev.tsv         validation_mismatched-…
  MNLI/   train.tsv dev_matched.tsv dev_mismatched.tsv
  QNLI/   train.tsv dev.tsv
  RTE/    train.tsv dev.tsv
(MRPC also as msr_paraphrase_train.txt and dev_ids.tsv)
""",
    witnesses=tuple(folder for task in TASKS.values() for folder in (task.folder, task.name)),
    folders=_FOLDERS,
    load=load,
    members=tuple(TASKS),
    parts_only=True,
    note="GLUE's test sets have no public labels and are left out. The paper's Table 10 rounds the sizes of the "
    "training sets, and most of its test sizes are of those test sets, while its scores are of the dev sets.",
    protocol=_PROTOCOL,
)
