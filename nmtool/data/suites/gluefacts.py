"""What the tasks of GLUE are: folders, columns, classes, sizes. Reads nothing.

Sizes are those of the official data, as Hugging Face and TensorFlow Datasets count it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from nmtool.data.suites.facts import Metric

_NUMBERS = {"0": 0, "1": 1}
_ENTAILMENT = ("entailment", "not_entailment")
_INFERENCE = ("entailment", "neutral", "contradiction")
_PLAIN = {"train": ("train.tsv", "train"), "val": ("dev.tsv", "validation")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One task.

    Attributes:
        name: as in ``suite:glue/NAME``, and the folder of its Parquet files.
        title: as the paper writes it.
        folder: of its TSV files.
        columns: in the TSV files' header: those of the texts, then that of the label.
        parquet: the same in the Parquet files.
        words: class number by what stands in a label's cell; empty where it is a score.
        classes: class names in label order; none where it is a score.
        sizes: official number of samples by split.
        metric: what the paper reports.
        source: its citation.
        parts: TSV file, and Parquet split, by split.
        header: the TSV files have one.
        note: where the paper's table is wrong, or the reading needs a word.
    """

    name: str
    title: str
    folder: str
    columns: tuple[str, ...]
    parquet: tuple[str, ...]
    words: Mapping[str, int]
    classes: tuple[str, ...]
    sizes: Mapping[str, int]
    metric: Metric
    source: str
    parts: Mapping[str, tuple[str, str]]
    header: bool = True
    note: str = ""


COLA = Task(
    name="cola",
    title="CoLA",
    folder="CoLA",
    columns=("sentence", "label"),
    parquet=("sentence", "label"),
    words=_NUMBERS,
    classes=("unacceptable", "acceptable"),
    sizes={"train": 8_551, "val": 1_043},
    metric="matthews",
    source="Warstadt et al. 2019",
    parts=_PLAIN,
    header=False,
)

SST2 = Task(
    name="sst2",
    title="SST-2",
    folder="SST-2",
    columns=("sentence", "label"),
    parquet=("sentence", "label"),
    words=_NUMBERS,
    classes=("negative", "positive"),
    sizes={"train": 67_349, "val": 872},
    metric="accuracy",
    source="Socher et al. 2013",
    parts=_PLAIN,
)

MRPC = Task(
    name="mrpc",
    title="MRPC",
    folder="MRPC",
    columns=("#1 String", "#2 String", "Quality"),
    parquet=("sentence1", "sentence2", "label"),
    words=_NUMBERS,
    classes=("not_equivalent", "equivalent"),
    sizes={"train": 3_668, "val": 408},
    metric="accuracy",
    source="Dolan and Brockett 2005",
    parts=_PLAIN,
    note="GLUE reports F1, too. msr_paraphrase_test.txt (1,725 pairs) has labels and is left out: the paper's scores "
    "are of the dev set.",
)

STSB = Task(
    name="stsb",
    title="STS-B",
    folder="STS-B",
    columns=("sentence1", "sentence2", "score"),
    parquet=("sentence1", "sentence2", "label"),
    words={},
    classes=(),
    sizes={"train": 5_749, "val": 1_500},
    metric="pearson",
    source="Cer et al. 2017",
    parts=_PLAIN,
    note="Regression: real numbers from 0 to 5. The paper's Table 10 prints 5 classes and 7,000 training pairs.",
)

QQP = Task(
    name="qqp",
    title="QQP",
    folder="QQP",
    columns=("question1", "question2", "is_duplicate"),
    parquet=("question1", "question2", "label"),
    words=_NUMBERS,
    classes=("not_duplicate", "duplicate"),
    sizes={"train": 363_846, "val": 40_430},
    metric="accuracy",
    source="Iyer et al. 2017",
    parts=_PLAIN,
    note="Rows of the TSV files that a line break has cut have too few fields and are left out, as by every reader. "
    "GLUE reports F1, too.",
)

MNLI = Task(
    name="mnli",
    title="MNLI",
    folder="MNLI",
    columns=("sentence1", "sentence2", "gold_label"),
    parquet=("premise", "hypothesis", "label"),
    words={word: number for number, word in enumerate(_INFERENCE)},
    classes=_INFERENCE,
    sizes={"train": 392_702, "val": 9_815, "mismatched/val": 9_832},
    metric="accuracy",
    source="Williams et al. 2018",
    parts={
        "train": ("train.tsv", "train"),
        "val": ("dev_matched.tsv", "validation_matched"),
        "mismatched/val": ("dev_mismatched.tsv", "validation_mismatched"),
    },
    note="val is the matched dev set; the mismatched one counts as out-of-domain in GLUE-X.",
)

QNLI = Task(
    name="qnli",
    title="QNLI",
    folder="QNLI",
    columns=("question", "sentence", "label"),
    parquet=("question", "sentence", "label"),
    words={word: number for number, word in enumerate(_ENTAILMENT)},
    classes=_ENTAILMENT,
    sizes={"train": 104_743, "val": 5_463},
    metric="accuracy",
    source="Rajpurkar et al. 2016; Wang et al. 2018",
    parts=_PLAIN,
    note="The second version of the task (QNLIv2), with the sizes of the paper's Table 10.",
)

RTE = Task(
    name="rte",
    title="RTE",
    folder="RTE",
    columns=("sentence1", "sentence2", "label"),
    parquet=("sentence1", "sentence2", "label"),
    words={word: number for number, word in enumerate(_ENTAILMENT)},
    classes=_ENTAILMENT,
    sizes={"train": 2_490, "val": 277},
    metric="accuracy",
    source="Dagan et al. 2006 and its successors",
    parts=_PLAIN,
)

TASKS: Mapping[str, Task] = {task.name: task for task in (COLA, SST2, MRPC, STSB, QQP, MNLI, QNLI, RTE)}
