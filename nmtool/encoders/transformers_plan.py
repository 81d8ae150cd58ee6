"""Models in the layout of the ``transformers`` library by content: from the hub or a folder. Loads nothing.

What is digested is what decides the features: weights, configuration, tokenizer or image processor. Code that a
repository brings along is never run; weights are safetensors, or one ``pytorch_model.bin`` where there are none.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nmtool.artifact.format import canonical, sha256
from nmtool.artifact.memo import Memo, file_digest
from nmtool.encoders import hub
from nmtool.encoders.facts import untrained_weights, versions
from nmtool.encoders.open_clip_plan import TOKENIZER_FILES
from nmtool.encoders.resolved import Asked, Resolved
from nmtool.encoders.spec import EncoderSpec
from nmtool.errors import DataError, InputMissingError, UsageError
from nmtool.records import InputRef

_LAYOUT = 1  # of a remembered answer
CONFIG, WEIGHTS, SHARDS = "config.json", "model.safetensors", "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"
PROCESSOR = "preprocessor_config.json"
# sentence-transformers' files: how its models pool, and how much they read
POOLING, SENTENCES = "1_Pooling/config.json", "sentence_bert_config.json"
_FETCHED = (CONFIG, "model*.safetensors", SHARDS, PROCESSOR, POOLING, SENTENCES, *TOKENIZER_FILES)


def plan(name: str, asked: Asked, memo: Memo) -> Resolved:
    """``transformers:NAME`` from the hub, or ``transformers:FOLDER``; a folder that exists is meant first."""
    if asked.kwargs or asked.overrides:
        raise UsageError(
            "--model-kwargs or preprocessing flags with transformers:",
            "none: its config.json and preprocessor_config.json say it",
            "change them in a copy of the folder",
        )
    installed = versions(("transformers", "torch"), "'nmtool[text]'")
    folder, local = _folder(name, asked.untrained)
    config = _config(folder)
    tower = _tower(folder, asked.tower)
    if tower == "image" and asked.max_length is not None:
        raise UsageError("--max-length with an image tower", "a text tower")
    weights = {} if asked.untrained else _weights(folder, memo)
    wanted = (CONFIG, *((PROCESSOR,) if tower == "image" else (POOLING, SENTENCES, *TOKENIZER_FILES)))
    files = {file: file_digest(folder / file, memo) for file in wanted if (folder / file).is_file()}
    question = ["transformers-facts", _LAYOUT, files, installed, tower, asked.feature, asked.max_length]
    facts = memo.recall(question)
    if not isinstance(facts, dict):
        from nmtool.encoders.transformers import find_out

        facts = find_out(folder, tower, asked.feature, asked.max_length)
        memo.remember(question, facts)
    content = untrained_weights(asked.seed, installed) if asked.untrained else _one_digest(weights)
    spec = EncoderSpec(
        family="transformers",
        arch=_shape_name(config) if local else name,
        kwargs={},
        weights=content,
        preprocessing=None,
        feature=str(facts["feature"]),
        dim=int(facts["dim"]),
        untrained=asked.untrained,
        tower=tower,
        normalize=asked.normalize,
        files=files,
        preparation=facts["preparation"],
    )
    return Resolved(
        spec=spec,
        input=InputRef(role="model", kind="weights", key="", content=content),
        path=None,
        source="untrained" if asked.untrained else "folder" if local else "hub",
        seed=asked.seed if asked.untrained else 0,
        folder=folder,
        weights=weights,
    )


def _folder(name: str, untrained: bool) -> tuple[Path, bool]:
    """Where the files lie, and whether that is a folder of the user's own."""
    if not name:
        raise UsageError("MODEL transformers:", "transformers:NAME or transformers:FOLDER")
    here = Path(name)
    if here.is_dir():
        if not (here / CONFIG).is_file():
            raise InputMissingError(f"{here} has no {CONFIG}", "a folder as save_pretrained writes it")
        return here, True
    if here.is_absolute() or name.startswith(".") or name.count("/") > 1:
        raise InputMissingError(f"the folder {name} does not exist", "a folder as save_pretrained writes it")
    or_else = "give a folder as save_pretrained writes it: transformers:FOLDER"
    needed = [CONFIG] if untrained else [CONFIG, f"{WEIGHTS}|{SHARDS}|{PICKLED}"]
    found = hub.folder(name, needed, _FETCHED, f"transformers:{name}", or_else)
    if not untrained and not any((found / file).is_file() for file in (WEIGHTS, SHARDS, PICKLED)):
        hub.find(name, [PICKLED], f"transformers:{name}", or_else)
    return found, False


def _config(folder: Path) -> Mapping[str, Any]:
    try:
        body = json.loads((folder / CONFIG).read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{folder / CONFIG} does not parse ({error})", "a configuration as JSON") from None
    if not isinstance(body, dict) or not isinstance(body.get("model_type"), str):
        raise DataError(f"{folder / CONFIG} names no model_type", "a configuration of the transformers library")
    return body


def _tower(folder: Path, asked: str) -> str:
    """Which tower is meant; a folder says what it can read by the files it has."""
    towers = []
    if (folder / PROCESSOR).is_file():
        towers.append("image")
    if any((folder / name).is_file() for name in TOKENIZER_FILES):
        towers.append("text")
    if not towers:
        raise InputMissingError(
            f"{folder} has neither a tokenizer nor {PROCESSOR}", "the files that prepare its inputs", "fetch them, too"
        )
    if asked and asked not in towers:
        missing = PROCESSOR if asked == "image" else "tokenizer files"
        raise UsageError(f"the {asked} tower of {folder.name}, which has no {missing}", f"its {towers[0]} tower")
    return asked or towers[0]


def _weights(folder: Path, memo: Memo) -> dict[str, str]:
    """The weights files with their digests."""
    if (folder / WEIGHTS).is_file():
        return {WEIGHTS: file_digest(folder / WEIGHTS, memo)}
    index = folder / SHARDS
    if not index.is_file():
        if (folder / PICKLED).is_file():
            return {PICKLED: file_digest(folder / PICKLED, memo)}
        raise InputMissingError(
            f"{folder} has no {WEIGHTS}",
            f"weights as safetensors, or one {PICKLED}",
            "write it with save_pretrained, or take --untrained",
        )
    try:
        names = sorted({str(name) for name in json.loads(index.read_bytes())["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{index} does not parse ({error})", "a table of weights by file") from None
    for name in names:
        if "/" in name or not name.endswith(".safetensors"):
            raise DataError(f"{index} names {name!r}", "safetensors files beside it")
        if not (folder / name).is_file():
            raise InputMissingError(f"{folder} has no {name}", f"every file that {SHARDS} names", "fetch it, too")
    return {name: file_digest(folder / name, memo) for name in (SHARDS, *names)}


def _one_digest(weights: Mapping[str, str]) -> str:
    return next(iter(weights.values())) if len(weights) == 1 else sha256(canonical(dict(weights)))


def _shape_name(config: Mapping[str, Any]) -> str:
    """A name for a model in a folder, from its content: class, layers, width. The folder's own would be a path."""
    classes = config.get("architectures")
    name = str(classes[0]) if isinstance(classes, list) and classes else str(config["model_type"])
    layers = next((config[k] for k in ("num_hidden_layers", "n_layer", "n_layers", "num_layers") if k in config), None)
    width = next((config[k] for k in ("hidden_size", "n_embd", "d_model", "dim") if k in config), None)
    return name + (f"-L{layers}" if isinstance(layers, int) else "") + (f"-H{width}" if isinstance(width, int) else "")
