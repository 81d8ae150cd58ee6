"""What ``extract`` can be asked. What the encoder is (flags, weights, preprocessing) enters the key as its resolved
specification, so those flags are not keyed themselves: the same encoder named in two ways has one key."""

from __future__ import annotations

from dataclasses import dataclass

from nmtool.encoders.device import AMP
from nmtool.encoders.spec import INTERPOLATIONS
from nmtool.settings import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of ``extract``."""

    model: str = setting(
        doc="timm:NAME, open_clip:ARCH/PRETRAINED, transformers:NAME or :FOLDER, openai:MODEL (a service, see "
        "--base-url), the path of a backbone artifact or of a weights file (with --arch), or none",
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
    # Both enter the key only where they are asked for: so keys without them are what they were.
    amp: str = setting(
        "none",
        doc="mixed precision of the encoder; --dtype says how features are stored (bfloat16 there is bf16 here)",
        key=False,
        choices=AMP,
    )
    compile: bool = setting(
        False, doc="torch.compile the encoder of images: a while at first, then faster; needs a C++ compiler", key=False
    )
    on_error: str = setting(
        "fail", doc="a sample that can't be read: stop, or keep its row, marked", key=True, choices=("fail", "skip")
    )
    # Keyed by the decoder's name and version, where it is not Pillow: so keys without it are what they were.
    decode: str = setting(
        "cpu",
        doc="who decodes JPEG files: cpu (Pillow), or cuda (torchvision, where its pixels agree on the first images)",
        key=False,
        choices=("cpu", "cuda"),
    )
    # Not keyed: it changes how a row comes to be there, not which features are asked for.
    retry_failed: bool = setting(
        False,
        doc="encode the rows that failed earlier again, also after their files were mended; take all others as they "
        "are",
        key=False,
    )
    feature: str | None = setting(
        None,
        doc="pre_logits, cls, mean, last, projected, or a layer as blocks.5 or blocks.5:cls (default: pre_logits for "
        "timm, projected for open_clip; for transformers the class token, or the last token where there is none, or "
        "what the folder's 1_Pooling says)",
        key=False,
    )
    normalize: bool = setting(False, doc="divide each feature by its L2 norm", key=False)
    tower: str | None = setting(
        None,
        doc="which tower of a model of images and texts; captions are read by the image tower unless text is asked for",
        key=False,
        choices=("image", "text"),
    )
    max_length: int | None = setting(None, doc="longest text in tokens (default: the model's own)", key=False)
    # Views enter the key as one record, and only where there are any: so keys without views are what they were.
    views: int = setting(0, doc="augmented views of each image that are encoded beside it, 0 to 16", key=False)
    augment: str = setting(
        "weak",
        doc="weak: crop, flip and colour jitter (TURN A.2.2); strong: crop, flip and RandAugment",
        key=False,
        choices=("weak", "strong"),
    )
    view_seed: int = setting(0, doc="seed of the views", key=False)
    # Not keyed: the same numbers but for their last bits; the summary records it.
    batch_size: int = setting(
        64, doc="samples a forward pass (images on a CPU: at most 16); for openai: texts a request", key=False
    )
    arch: str | None = setting(
        None, doc="architecture of a weights file: timm's name, or open_clip:ARCH[/PRETRAINED]", key=False
    )
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
    base_url: str | None = setting(
        None,
        doc="for openai: where the service is, http(s)://HOST/PATH [$OPENAI_BASE_URL]; its key comes from "
        "$OPENAI_API_KEY alone",
        key=False,
    )
    dimensions: int | None = setting(
        None, doc="for openai: length of the vectors to ask for (default: the model's)", key=False
    )
    revision: str | None = setting(
        None, doc="for openai: your label for the state of the service's model, which tells none itself", key=False
    )
    pair_separator: str | None = setting(
        None, doc="for openai: pairs of texts are sent as one text, with this between", key=False
    )
    batch_tokens: int = setting(100_000, doc="for openai: tokens a request, as estimated", key=False)
    max_retries: int = setting(8, doc="for openai: how often a request that got no answer is repeated", key=False)
    timeout: float = setting(60.0, doc="for openai: seconds for a request", key=False)
    price: float | None = setting(
        None, doc="for openai: price of a million tokens; --dry-run and the summary tell the cost", key=False
    )
    # Only random weights depend on it, and those are named by it in the encoder's specification.
    seed: int = setting(0, doc="seed of --untrained weights", key=False)
    device: str = setting("auto", doc="auto, cpu, cuda or cuda:N", key=False)
    workers: int = setting(
        0,
        doc="decoding threads (0: as many as there are cores, at most 8); for openai: requests in flight (0: 4)",
        key=False,
    )

    def overrides(self) -> dict[str, object]:
        """The preprocessing that is asked for in place of the model's own, None where it is not."""
        return {
            "size": self.image_size,
            "interpolation": self.interpolation,
            "crop_pct": self.crop_pct,
            "mean": self.mean,
            "std": self.std,
        }
