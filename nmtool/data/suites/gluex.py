"""GLUE-X: what a head that was tuned on a task of GLUE is judged on out of its domain, as the first paper does.

Each task has one or more sets; every set is one split, ``SET/test``, of all its parts together, as GLUE-X
evaluates them (its ``preprocess_data``: IMDB's train and test, SNLI's three parts, HANS' two …). Classes have the
names and the order of the GLUE task, so that its heads apply. The sets are read in their own official layouts
(``gluexsets``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nmtool.data.dataset import Dataset
from nmtool.data.suites.facts import Request, Suite
from nmtool.data.suites.gluefacts import TASKS
from nmtool.data.suites.gluexsets import (
    Found,
    grammar_test,
    hans,
    imdb,
    mnli_mismatched,
    mrpc,
    newsqa,
    qqp,
    scitail,
    sick_inference,
    sick_relatedness,
    snli,
)
from nmtool.data.suites.samples import text_dataset

_FOLDERS = ("GLUE-X", "gluex")


@dataclass(frozen=True, slots=True, kw_only=True)
class Beyond:
    """One set.

    Attributes:
        size: its official number of samples.
        read: reads it; given the folders to look in.
    """

    size: int
    read: Callable[[list[Path]], Found]


_SETS: Mapping[str, Mapping[str, Beyond]] = {
    "cola": {"grammar_test": Beyond(size=304_277, read=grammar_test)},
    "sst2": {"imdb": Beyond(size=50_000, read=imdb)},
    "mrpc": {"qqp": Beyond(size=404_276, read=qqp)},
    "stsb": {"sick": Beyond(size=9_840, read=sick_relatedness)},
    "qqp": {"mrpc": Beyond(size=4_076, read=mrpc)},
    "mnli": {
        "mnli_mismatched": Beyond(size=9_832, read=mnli_mismatched),
        "sick": Beyond(size=9_840, read=sick_inference),
        "snli": Beyond(size=570_152, read=snli),
    },
    "qnli": {"newsqa": Beyond(size=119_525, read=newsqa)},
    "rte": {
        "hans": Beyond(size=60_000, read=hans),
        "scitail": Beyond(size=27_026, read=scitail),
    },
}
_NOTES = {
    "cola": "The sentences are released by GLUE-X alone, with save_to_disk; columns sentence and label.",
    "mrpc": "QQP's train and dev sets; not in the paper's Table 11.",
    "stsb": "SICK's relatedness, from 1 to 5 (STS-B's is from 0 to 5: Pearson's correlation does not mind). GLUE-X "
    "rounds both to five classes; here they are the real numbers. Not in the paper's Table 11.",
    "qqp": "MRPC's train and dev sets; not in the paper's Table 11.",
    "mnli": "The paper's Table 11 prints 2 classes for these sets; they have 3. 1,119 pairs of SNLI have no gold "
    "label: they are unlabelled here, and GLUE-X counts them as wrong.",
    "qnli": "NewsQA as reconstructed and released by GLUE-X alone, with save_to_disk; columns question, sentence and "
    "label.",
    "rte": "SciTail has 27,026 pairs; the paper's Table 11 prints 26,527, as many as Hugging Face's tsv_format, in "
    "which 499 training pairs are lost (it seems to quotes). SciTail's neutral and HANS' non-entailment are "
    "not_entailment.",
}


def load(suite: Suite, request: Request) -> Dataset:
    """The sets of one task, or one of them."""
    name, _, only = request.member.partition("/")
    facts = next(part for part in GLUEX_TASKS if part.name == f"{suite.name}/{name}")
    # A folder of GLUE-X's own may hold some of the sets, and the data root the others.
    own = request.root.name in (suite.name, *_FOLDERS)
    homes = [request.root, *([request.root.parent] if own else [])]
    found = {f"{each}/test": beyond.read(homes) for each, beyond in _SETS[name].items() if only in ("", each)}
    return text_dataset(
        facts,
        request,
        TASKS[name].classes,
        {split: texts for split, (texts, _) in found.items()},
        inputs=[path for _, paths in found.values() for path in paths],
    )


def _facts(name: str, sets: Mapping[str, Beyond]) -> Suite:
    return Suite(
        name=f"glue-x/{name}",
        title=f"{TASKS[name].title} beyond its domain",
        group="GLUE-X",
        kind="text",
        classes=len(TASKS[name].classes),
        splits={f"{each}/test": beyond.size for each, beyond in sets.items()},
        metric=TASKS[name].metric,
        source="Yang et al. 2023",
        tree=_TREE,
        witnesses=_WITNESSES,
        folders=_FOLDERS,
        load=load,
        members=tuple(sets),
        note=_NOTES.get(name, ""),
        protocol=_PROTOCOL,
    )


_TREE = """
GLUE-X/                    or these folders in the data root itself
  cola_ood/                as GLUE-X releases it, by save_to_disk
                           (or cola_ood.tsv: sentence, label)
  aclImdb/{train,test}/{neg,pos}/0_3.txt …
  GLUE/{QQP,MRPC,MNLI}/    as suite:glue has them
  SICK/SICK.txt
  snli_1.0/snli_1.0_{train,dev,test}.jsonl (or .txt)
  qnli_ood/                as GLUE-X releases it, by save_to_disk
                           (or qnli_ood.tsv: question, sentence, label)
  hans/heuristics_{train,evaluation}_set.txt
  SciTailV1.1/tsv_format/scitail_1.0_{train,dev,test}.tsv
(a task needs its own sets only)
"""
_WITNESSES = (
    *("cola_ood", "cola_ood.tsv", "qnli_ood", "qnli_ood.tsv", "aclImdb", "SICK", "snli_1.0", "hans", "SciTailV1.1"),
    *("GLUE", "glue"),
)
_PROTOCOL = (
    "Heads tuned on the GLUE task are judged on each set as a whole. Of GLUE-X's sets these are the ones that the "
    "first paper names: Yelp, Amazon and Flipkart for SST-2 and Twitter for MRPC and QQP are not among them."
)

GLUEX_TASKS: tuple[Suite, ...] = tuple(_facts(name, sets) for name, sets in _SETS.items())
"""The tasks, each as a suite of its own: what they are; they are opened as members of ``GLUEX``."""

GLUEX = Suite(
    name="glue-x",
    title="GLUE-X",
    group="GLUE-X",
    kind="text",
    classes=0,
    splits={},
    metric="none",
    source="Yang et al. 2023",
    tree=_TREE,
    witnesses=_WITNESSES,
    folders=_FOLDERS,
    load=load,
    members=(*_SETS, *(f"{name}/{each}" for name, sets in _SETS.items() for each in sets)),
    parts_only=True,
    note="All parts of a set together are its test split, as GLUE-X evaluates them and the paper's Table 11 counts "
    "them.",
    protocol=_PROTOCOL,
)
