"""``fft`` and ``lora``: fine-tune a backbone with a linear head, on all rows with the labels they have.

The head starts as a probe's does (published-code 1.2). Under ``lora`` the backbone's own weights stay, and low-rank
adapters learn (published-code 1.6). With weights above 0 NMTune's terms act on the head's input, the encoder's output:
the journal's variant for white boxes, which has no consistency term.
"""

from __future__ import annotations

import numpy as np

from nmtool.tune import outcome as outcomes_of
from nmtool.tune import scale, subset
from nmtool.tune.course import Course, Everything
from nmtool.tune.heads import LinearHeads
from nmtool.tune.material import Bench, Material
from nmtool.tune.network import Network
from nmtool.tune.outcome import Outcome
from nmtool.tune.pictures import Pictures
from nmtool.tune.plan import Run


def tune(runs: tuple[Run, ...], material: Material, bench: Bench) -> list[Outcome]:
    """Fine-tune the runs one by one; finished ones of a killed call are read."""
    assert material.pictures is not None
    pictures = material.pictures()
    outcomes: list[Outcome] = []
    for run in runs:
        name = f"done-{run.method}-{run.index}.safetensors"
        kept = bench.kept(name)
        if kept is not None:
            outcomes += outcomes_of.from_bytes(kept)
            bench.advance(run.finetune.epochs if run.finetune else 0)
            continue
        done = _one(run, pictures, material, bench)
        bench.keep(name, outcomes_of.to_bytes([done]))
        outcomes.append(done)
    return outcomes


def _one(run: Run, pictures: Pictures, material: Material, bench: Bench) -> Outcome:
    noisy = material.overlays[run.labels].y
    rows = subset.share(noisy, run.seed, run.fraction, run.nested)
    scaling = scale.learn(run.probe.scale, material.X, bench.tensor(rows))
    dim, classes = material.X.shape[1], len(material.classes)
    head = LinearHeads((run,), dim, classes, bench.device).export(0)
    adapters = run.white_box if run.white_box is not None and run.white_box.lora_rank else None
    weight, bias = head["classifier.weight"], head["classifier.bias"]
    net = Network(pictures.encoder, weight, bias, scaling, bench.device, adapters, run.seed)
    course = Course(run, net, pictures, material, bench, rows, Everything(rows))
    course.all_epochs()
    scores = course.judge()
    _, counts = np.unique(noisy[noisy >= 0], return_counts=True)
    return Outcome(
        run=run,
        tensors={**course.tensors(), **scaling.tensors()},
        epochs=course.history,
        scores=scores,
        notes={
            "n_train": len(rows),
            "train_accuracy": course.history[-1]["train_accuracy"],
            "chance": float(counts.max() / counts.sum()),
            "parameters": sum(p.numel() for p in net.parameters() if p.requires_grad),
        },
        cleansing={},
    )
