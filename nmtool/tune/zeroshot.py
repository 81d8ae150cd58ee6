"""Zero-shot classification with a model of images and texts (CLIP, Radford et al. 2021): nothing is trained.

The head is a linear classifier on features of unit length: its weights are the model's own logit scale times the class
prototypes, its intercepts are 0. So it is asked, exported and loaded as a linear probe is. Training rows tell which
classes there are, and nothing else; shares and labels change nothing, and of several seeds ``plan`` makes one run.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from nmtool.errors import DataError
from nmtool.numerics.prompts import prototypes
from nmtool.tune.feed import Feed
from nmtool.tune.fit import Trained, judge
from nmtool.tune.heads import LinearHeads
from nmtool.tune.material import Bench, Material
from nmtool.tune.outcome import Outcome
from nmtool.tune.plan import Run
from nmtool.tune.prompts import of_classes

_PROMPTS = 256  # in a forward pass


def tune(runs: tuple[Run, ...], material: Material, bench: Bench) -> list[Outcome]:
    """Encode the prompts of every class once, and judge the classifier that they make on every split."""
    weight = _weight(runs[0].templates, material, bench)
    heads = LinearHeads(runs, material.X.shape[1], material.outputs, bench.device)
    with torch.no_grad():
        heads.parameters["classifier.weight"][:] = weight
    feed = Feed(runs, material, bench)
    epochs: list[list[dict[str, Any]]] = [[{"epoch": 1, "train_accuracy": None}] for _ in runs]
    bench.advance(len(runs))
    outcomes = judge(runs, Trained(heads=heads, feed=feed, epochs=epochs), material, bench)
    return [dataclasses.replace(o, notes={**o.notes, "n_train": 0}) for o in outcomes]


@torch.inference_mode()
def _weight(templates: tuple[str, ...], material: Material, bench: Bench) -> Tensor:
    """Logit scale times the prototypes, float32 [C, D].

    Raises:
        DataError: a text tower of another dimension than the features, or embeddings that are not finite.
    """
    assert material.tower is not None
    encoder = material.tower()
    texts = [(prompt,) for prompts in of_classes(material.classes, templates) for prompt in prompts]
    parts = []
    with bench.report.progress(len(texts), "encoding prompts") as advance:
        for start in range(0, len(texts), _PROMPTS):
            tokens = encoder.tokenizer.tokens(texts[start : start + _PROMPTS])
            parts.append(encoder.features(encoder.tokenizer.batch(tokens, bench.device)).float())
            advance(len(tokens))
    embeddings = torch.cat(parts).reshape(len(material.classes), len(templates), -1)
    if embeddings.shape[-1] != material.X.shape[1] or not embeddings.isfinite().all():
        raise DataError(
            f"embeddings of prompts {list(embeddings.shape)}",
            f"finite, of {material.X.shape[1]} dimensions as the features",
        )
    scale: Tensor = encoder.module.logit_scale.exp().float()
    return scale * prototypes(embeddings)
