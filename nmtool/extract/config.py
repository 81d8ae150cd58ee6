"""What ``extract`` can be asked. What the encoder is (flags, weights, preprocessing) enters the key as its resolved
specification, so those flags are not keyed themselves: the same encoder named in two ways has one key."""

from __future__ import annotations

from dataclasses import dataclass

from nmtool.encoders.spec import INTERPOLATIONS
from nmtool.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of ``extract``."""

    model: str = setting(
        doc="timm:NAME, the path of a backbone artifact or of a .safetensors file (with --arch), or none",
        key=False,
        operand=True,
    )
    data: str = setting(doc="a data URI, for example folder:DIR", key=False, operand=True)
    data_root: str | None = setting(
        None, doc="folder below which torchvision: and suite: look [$NMTOOL_DATA]", key=False
    )
    # keyed by the resolved names: an explicit list of all splits is the default
    split: tuple[str, ...] = setting((), doc="splits to extract (default: all)", key=False)
    dtype: str = setting(
        "float32",
        doc="float16 is stored so; bfloat16 is computed so (autocast) and stored as float32",
        key=True,
        choices=("float32", "float16", "bfloat16"),
    )
    on_error: str = setting(
        "fail", doc="a sample that can't be read: stop, or keep its row, marked", key=True, choices=("fail", "skip")
    )
    # Not keyed: the same numbers but for their last bits; the summary records it.
    batch_size: int = setting(64, doc="images a forward pass", key=False)
    arch: str | None = setting(None, doc="timm's architecture name of a weights file", key=False)
    model_kwargs: tuple[str, ...] = setting(
        (), doc="KEY=VALUE for the architecture, as timm's: pad_type=same", key=False, repeat=True
    )
    untrained: bool = setting(False, doc="seeded random weights instead of pretrained ones: a baseline", key=False)
    image_size: int | None = setting(None, doc="input height and width in pixels (default: the model's)", key=False)
    interpolation: str | None = setting(
        None, doc="how images are resized (default: the model's)", key=False, choices=INTERPOLATIONS
    )
    crop_pct: float | None = setting(
        None, doc="resize to image size / this, then crop the centre (default: the model's)", key=False
    )
    mean: tuple[float, ...] | None = setting(None, doc="mean of pixels in [0, 1], one or three numbers", key=False)
    std: tuple[float, ...] | None = setting(None, doc="their standard deviation, one or three numbers", key=False)
    # Only random weights depend on it, and those are named by it in the encoder's specification.
    seed: int = setting(0, doc="seed of --untrained weights", key=False)
    device: str = setting("auto", doc="auto, cpu, cuda or cuda:N", key=False)
    workers: int = setting(0, doc="decoding threads (0: as many as there are cores, at most 8)", key=False)

    def overrides(self) -> dict[str, object]:
        """The preprocessing that is asked for in place of the model's own, None where it is not."""
        return {
            "size": self.image_size,
            "interpolation": self.interpolation,
            "crop_pct": self.crop_pct,
            "mean": self.mean,
            "std": self.std,
        }
