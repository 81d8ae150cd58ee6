"""Miniatures of GLUE and of GLUE-X's sets in their official layouts, each written from the rows a test expects back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet

Row = tuple[tuple[str, ...], int | float]

# (texts, label or score) of each split, with the oddities that the real files have
GLUE: dict[str, dict[str, list[Row]]] = {
    "cola": {
        "train": [
            (('He said "go.',), 1),  # an unbalanced quote
            (("Many 'what are they' books.",), 0),
            (("naïve café\u2028x",), 1),  # a line separator that ends no line
        ],
        "val": [(("The sailors rode.",), 1), (("  *Leading space",), 0)],
    },
    "sst2": {
        "train": [(("hide new secretions ",), 0), (("a joy ",), 1), (("`` fine '' ",), 1)],
        "val": [(("it 's charming ",), 1), (("bleak ",), 0)],
    },
    "mrpc": {
        "train": [(('Amrozi " said', "He said"), 1), (("A b", "C d"), 0), (("E", "F"), 1)],
        "val": [(("He $ 1,000", "She"), 1), (("G", "H"), 0)],
    },
    "stsb": {
        "train": [(("A plane.", "An air plane."), 5.0), (("A", "B"), 0.0), (("C", "D"), 3.867)],
        "val": [(("A man.", "A woman."), 2.4), (("E", "F"), 4.75)],
    },
    "qqp": {
        "train": [(("How?", "Why?"), 0), (('What "is', "What's?"), 1), (("", "Empty first?"), 0)],
        "val": [(("Who?", "Whom?"), 1), (("Where?", "When?"), 0)],
    },
    "mnli": {
        "train": [(("P one", "H one"), 1), (("P two", "H two"), 0), (("P three", "H three"), 2)],
        "val": [(("P m", "H m"), 2), (("P n", "H n"), 0)],
        "mismatched/val": [(("P x", "H x"), 1), (("P y", "H y"), 0)],
    },
    "qnli": {
        "train": [(("When?", "In 1066."), 0), (("Who?", "It rains."), 1)],
        "val": [(("What?", "A thing."), 0), (("How?", "No."), 1)],
    },
    "rte": {
        "train": [(("No weapons.", "Weapons."), 1), (("A dog barks.", "A dog."), 0)],
        "val": [(("Dana died.", "Dana."), 1), (("Fine.", "OK."), 0)],
    },
}
CLASSES = {
    "cola": ("unacceptable", "acceptable"),
    "sst2": ("negative", "positive"),
    "mrpc": ("not_equivalent", "equivalent"),
    "stsb": (),
    "qqp": ("not_duplicate", "duplicate"),
    "mnli": ("entailment", "neutral", "contradiction"),
    "qnli": ("entailment", "not_entailment"),
    "rte": ("entailment", "not_entailment"),
}
FOLDERS = {
    "cola": "CoLA",
    "sst2": "SST-2",
    "mrpc": "MRPC",
    "stsb": "STS-B",
    "qqp": "QQP",
    "mnli": "MNLI",
    "qnli": "QNLI",
    "rte": "RTE",
}
HEADERS = {
    "sst2": "sentence label",
    "mrpc": "Quality|#1 ID|#2 ID|#1 String|#2 String",
    "stsb": "index genre filename year old_index source1 source2 sentence1 sentence2 score",
    "qqp": "id qid1 qid2 question1 question2 is_duplicate",
    "mnli": "index promptID pairID genre sentence1_binary_parse sentence2_binary_parse sentence1_parse sentence2_parse "
    "sentence1 sentence2 label1 gold_label",
    "qnli": "index question sentence label",
    "rte": "index sentence1 sentence2 label",
}
FILES = {"train": "train.tsv", "val": "dev.tsv"}
MNLI_FILES = {"train": "train.tsv", "val": "dev_matched.tsv", "mismatched/val": "dev_mismatched.tsv"}


def write_glue(root: Path, tasks: Sequence[str] = tuple(GLUE)) -> Path:
    """``root/GLUE`` as the official archives unpack."""
    for task in tasks:
        folder = root / "GLUE" / FOLDERS[task]
        folder.mkdir(parents=True, exist_ok=True)
        for split, rows in GLUE[task].items():
            lines = [_line(task, split, number, texts, label) for number, (texts, label) in enumerate(rows)]
            if task in HEADERS:
                lines.insert(0, "\t".join(_header(task, split)))
            name = (MNLI_FILES if task == "mnli" else FILES)[split]
            mark = "\ufeff" if task == "mrpc" else ""
            (folder / name).write_bytes((mark + "\n".join(lines) + "\n").encode())
        (folder / "test.tsv").write_text("index\tsentence\n0\tno label here\n")
    return root


def _header(task: str, split: str) -> list[str]:
    names = HEADERS[task].split("|" if task == "mrpc" else " ")
    if task == "mnli" and split != "train":  # the dev sets have the labels of five annotators
        names[-1:-1] = ["label2", "label3", "label4", "label5"]
    return names


def _line(task: str, split: str, number: int, texts: tuple[str, ...], label: int | float) -> str:
    if task == "cola":
        return f"gj04\t{label}\t{'' if label else '*'}\t{texts[0]}"
    word = CLASSES[task][int(label)] if task in ("mnli", "qnli", "rte") else f"{label:.3f}" if task == "stsb" else label
    known = {"label": word, "score": word, "is_duplicate": word, "gold_label": word, "Quality": word}
    known |= dict(zip(("sentence1", "sentence2"), texts, strict=False))
    known |= dict(zip(("question1", "question2"), texts, strict=False))
    known |= dict(zip(("#1 String", "#2 String"), texts, strict=False))
    if task == "sst2":
        known["sentence"] = texts[0]
    if task == "qnli":
        known |= {"question": texts[0], "sentence": texts[1]}
    known |= {"#1 ID": f"{number}1", "#2 ID": f"{number}2"}
    return "\t".join(str(known.get(name, f"{name}{number}")) for name in _header(task, split))


HF = {
    "cola": ("sentence",),
    "sst2": ("sentence",),
    "qqp": ("question1", "question2"),
    "mnli": ("premise", "hypothesis"),
    "qnli": ("question", "sentence"),
}


def write_parquet(root: Path, task: str, shards: int = 1) -> Path:
    """``root/glue/TASK`` as on Hugging Face."""
    folder = root / "glue" / task
    folder.mkdir(parents=True)
    names = {"train": "train", "val": "validation"}
    if task == "mnli":
        names |= {"val": "validation_matched", "mismatched/val": "validation_mismatched"}
    for split, rows in GLUE[task].items():
        for k in range(shards):
            part = rows[k * len(rows) // shards : (k + 1) * len(rows) // shards]
            columns = HF.get(task, ("sentence1", "sentence2"))
            body = {name: [texts[at] for texts, _ in part] for at, name in enumerate(columns)}
            body |= {"label": [label for _, label in part], "idx": list(range(len(part)))}
            pa.parquet.write_table(pa.table(body), folder / f"{names[split]}-{k:05d}-of-{shards:05d}.parquet")
    return root


# what each set of GLUE-X gives, as (texts, label)
BEYOND: dict[str, dict[str, list[Row]]] = {
    "cola": {"grammar_test": [(('a "b',), 0), (("c",), 1), (("d",), 1)]},
    "sst2": {"imdb": [(("bad",), 0), (("worse<br />",), 0), (("good",), 1), (("dull",), 0), (("é fine",), 1)]},
    "mrpc": {"qqp": [*GLUE["qqp"]["train"], *GLUE["qqp"]["val"]]},
    "stsb": {"sick": [(("A b", "C"), 4.5), (("D", "E"), 1.0), (("F", "G"), 3.35)]},
    "qqp": {"mrpc": [*GLUE["mrpc"]["train"], *GLUE["mrpc"]["val"]]},
    "mnli": {
        "mnli_mismatched": GLUE["mnli"]["mismatched/val"],
        "sick": [(("A b", "C"), 0), (("D", "E"), 2), (("F", "G"), 1)],
        "snli": [(("s1", "h1"), 2), (("s2", "h2"), -1), (("s3", "h3"), 0), (("s4", "h4"), 1)],
    },
    "qnli": {"newsqa": [(("who?", "him"), 0), (("why?", "so"), 1)]},
    "rte": {
        "hans": [(("h1", "h2"), 1), (("h3", "h4"), 0), (("h5", "h6"), 1)],
        "scitail": [(('"p1', "q1"), 0), (("p2", "q2"), 1), (("p3", "q3"), 0), (("p4", "q4"), 1)],
    },
}
_RELATIONS = ("entailment", "neutral", "contradiction")


def write_gluex(root: Path) -> Path:
    """All sets below ``root``, as their own archives unpack; GLUE's tasks beside them."""
    write_glue(root, ("qqp", "mrpc", "mnli"))
    rows = BEYOND["cola"]["grammar_test"]
    save_to_disk(root / "cola_ood", {"sentence": [t[0] for t, _ in rows], "label": [n for _, n in rows]}, files=2)
    found = BEYOND["qnli"]["newsqa"]
    texts = {"question": [t[0] for t, _ in found], "sentence": [t[1] for t, _ in found]}
    save_to_disk(root / "qnli_ood", {**texts, "label": [CLASSES["qnli"][int(n)] for _, n in found]})
    reviews = {"train/neg/3_4": "bad", "train/neg/10_1": "worse<br />", "train/pos/0_9": "good"}
    for place, text in {**reviews, "test/neg/0_2": "dull", "test/pos/0_10": "é fine"}.items():
        write(root / f"aclImdb/{place}.txt", text)
    write(root / "aclImdb/train/unsup/0_0.txt", "left alone")
    _write_sick(root)
    _write_snli(root)
    hans = ["gold_label", "sentence1_parse", "sentence1", "sentence2", "pairID", "heuristic"]
    words = ("entailment", "non-entailment")
    for part, rows in (("train", BEYOND["rte"]["hans"][:2]), ("evaluation", BEYOND["rte"]["hans"][2:])):
        body = ["\t".join((words[int(n)], "(p)", *texts, "ex1", "subsequence")) for texts, n in rows]
        write(root / f"hans/heuristics_{part}_set.txt", "\n".join(["\t".join(hans), *body, ""]))
    for part, span in (("train", slice(0, 2)), ("dev", slice(2, 3)), ("test", slice(3, 4))):
        body = ["\t".join((*texts, ("entails", "neutral")[int(n)])) for texts, n in BEYOND["rte"]["scitail"][span]]
        write(root / f"SciTailV1.1/tsv_format/scitail_1.0_{part}.tsv", "\n".join([*body, ""]))
    return root


def _write_sick(root: Path) -> None:
    lines = ["pair_ID\tsentence_A\tsentence_B\tentailment_label\trelatedness_score\tentailment_AB\tSemEval_set"]
    for number, ((texts, relation), (_, score)) in enumerate(
        zip(BEYOND["mnli"]["sick"], BEYOND["stsb"]["sick"], strict=True)
    ):
        lines.append("\t".join((str(number), *texts, _RELATIONS[int(relation)].upper(), f"{score}", "A_B", "TRAIN")))
    write(root / "SICK/SICK.txt", "\n".join([*lines, ""]))


def _write_snli(root: Path) -> None:
    rows = BEYOND["mnli"]["snli"]
    for part, span in (("train", slice(0, 2)), ("dev", slice(2, 3)), ("test", slice(3, 4))):
        bodies = [
            {"sentence1": one, "sentence2": two, "gold_label": _RELATIONS[int(n)] if n >= 0 else "-", "pairID": "x"}
            for (one, two), n in rows[span]
        ]
        write(root / f"snli_1.0/snli_1.0_{part}.jsonl", "".join(json.dumps(body) + "\n" for body in bodies))


def save_to_disk(folder: Path, columns: dict[str, list[object]], files: int = 1) -> None:
    """A dataset as Hugging Face's ``save_to_disk`` writes it: Arrow streams, and a state that names them."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table(columns)
    names = [f"data-{k:05d}-of-{files:05d}.arrow" for k in range(files)]
    for k, name in enumerate(names):
        start, stop = k * len(table) // files, (k + 1) * len(table) // files
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table.slice(start, stop - start))
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0", "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
