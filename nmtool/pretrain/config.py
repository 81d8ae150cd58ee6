"""What ``pretrain`` can be asked, with the defaults' reasons."""

from __future__ import annotations

from dataclasses import dataclass

from nmtool.encoders.device import AMP
from nmtool.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of ``pretrain``."""

    data: str = setting(doc="a data URI, for example folder:DIR", key=False, operand=True)
    data_root: str | None = setting(
        None, doc="folder below which torchvision: and suite: look [$NMTOOL_DATA]", key=False
    )
    arch: str = setting(doc="timm's name of the architecture", key=True)
    # read to plain values for the key: a=1 and b=2 in either order are one recipe
    model_kwargs: tuple[str, ...] = setting((), doc="KEY=VALUE for the architecture, as timm's", key=False, repeat=True)
    objective: str = setting(
        "supervised", doc="what is learned (clip: a later version)", key=True, choices=("supervised",)
    )
    labels: str | None = setting(
        None, doc="a labels artifact: its noisy labels replace the training split's", key=False
    )
    split: str = setting("train", doc="the split to train on", key=True)
    # keyed by the split or fraction that it comes to
    validation: str = setting(
        "", doc="a split, a fraction of the training split, or none (default: test, val or validation)", key=False
    )
    image_size: int | None = setting(
        None, doc="height and width in pixels (default: the images' own up to the architecture's)", key=True
    )
    augment: str = setting(
        "weak",
        doc="crop: random crop after padding by 1/8; flip: left and right; weak: both",
        key=True,
        choices=("none", "crop", "flip", "weak"),
    )
    epochs: int = setting(30, doc="passes over the training split", key=True)
    batch_size: int = setting(128, doc="images a step; an incomplete last batch is dropped", key=True)
    optimizer: str = setting(
        "adamw", doc="adamw, or sgd with Nesterov momentum 0.9", key=True, choices=("adamw", "sgd")
    )
    lr: float = setting(1e-3, doc="peak learning rate; cosine to 0 by steps", key=True)
    weight_decay: float = setting(0.05, doc="of weight matrices and kernels; biases and norms have none", key=True)
    warmup_epochs: float = setting(1.0, doc="linear warm-up of the learning rate", key=True)
    label_smoothing: float = setting(0.0, doc="share of the target that is spread over all classes", key=True)
    amp: str = setting("none", doc="mixed precision; fp16 needs CUDA", key=True, choices=AMP)
    channels_last: bool = setting(True, doc="memory layout; the fast one for convolutions", key=True)
    compile: bool = setting(False, doc="torch.compile the model", key=True)
    checkpoint_every: int = setting(1, doc="epochs between checkpoints to resume from", key=False)
    checkpoint_steps: int = setting(0, doc="steps between checkpoints within an epoch (0: none)", key=False)
    seed: int = setting(0, doc="of initial weights, order of samples and augmentation", key=True)
    device: str = setting("auto", doc="auto, cpu, cuda or cuda:N", key=False)
    workers: int = setting(0, doc="decoding threads (0: as many as there are cores, at most 8)", key=False)
