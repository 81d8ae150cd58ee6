"""What an encoder is, as a record that goes into keys: architecture, digests, preparation, and which tensor it gives.

Importing this file imports neither torch nor any model library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

INTERPOLATIONS = ("bicubic", "bilinear", "nearest", "lanczos")


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How an RGB uint8 image becomes the encoder's input; all of it changes the features.

    Attributes:
        size: input height and width in pixels.
        interpolation: bicubic, bilinear, nearest or lanczos.
        crop_pct: the image is resized to size / crop_pct, then cropped to size.
        crop_mode: center, squash or border, as timm's.
        mean, std: per channel, of values in [0, 1].
    """

    size: tuple[int, int]
    interpolation: str
    crop_pct: float
    crop_mode: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """An encoder, by content.

    Attributes:
        family: ``timm``, ``open_clip``, ``transformers``, ``openai`` (a service), or ``none`` where features are ready
            made.
        arch: the architecture's name in its family.
        kwargs: keyword arguments of its constructor, JSON values by name.
        weights: digest of the weights: of the file's bytes, or ``untrained:SEED:VERSIONS`` for seeded random ones, or
            ``service:LABEL`` for a black box that tells none.
        preprocessing: how images are prepared; None where features are ready made, for texts, and where the family's
            own processor prepares them (then ``preparation`` names it and ``files`` holds its configuration).
        feature: which tensor is the feature: ``pre_logits`` is what enters the classifier, ``cls``, ``mean`` and
            ``last`` are tokens of the last layer or their mean, ``projected`` is in the space that images and texts
            share, ``LAYER`` or ``LAYER:POOL`` the output of a named module, ``embedding`` is a service's vector,
            ``given`` is ready made.
        dim: length of a feature vector; 0 where features are ready made (then the data's content tells it), or where
            a service is not asked for a certain length (then its first answer does).
        untrained: the weights are random: a baseline, and named so in every table.
        tower: what it reads: ``image`` or ``text``.
        normalize: features are divided by their L2 norm.
        files: digests of what else decides the features (configuration, vocabulary), by name.
        preparation: how samples are prepared where ``preprocessing`` does not say it: tokenizer, greatest length.
    """

    family: str
    arch: str
    kwargs: Mapping[str, object]
    weights: str
    preprocessing: Preprocessing | None
    feature: str
    dim: int
    untrained: bool
    tower: str = "image"
    normalize: bool = False
    files: Mapping[str, str] = field(default_factory=dict)
    preparation: Mapping[str, object] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """Plain JSON for keys and manifests. Later fields are left out at their defaults: so older keys still hold."""
        body = {k: _lists(v) for k, v in asdict(self).items()}
        return {k: v for k, v in body.items() if k not in _LATER or v != _LATER[k]}


_LATER: dict[str, object] = {"tower": "image", "normalize": False, "files": {}, "preparation": {}}

READY_MADE = EncoderSpec(
    family="none",
    arch="none",
    kwargs={},
    weights="none",
    preprocessing=None,
    feature="given",
    dim=0,
    untrained=False,
)


def _lists(value: object) -> object:
    if isinstance(value, Mapping):
        return {k: _lists(v) for k, v in value.items()}
    return [_lists(v) for v in value] if isinstance(value, (tuple, list)) else value


def from_json(body: Mapping[str, object]) -> EncoderSpec:
    """The record that ``to_json`` wrote."""
    fields = dict(body)
    if fields["preprocessing"] is not None:
        fields["preprocessing"] = preprocessing_from_json(fields["preprocessing"])  # type: ignore[arg-type]
    return EncoderSpec(**fields)  # type: ignore[arg-type]


def preprocessing_from_json(body: Mapping[str, object]) -> Preprocessing:
    """The record whose fields ``body`` holds, lists for tuples."""
    return Preprocessing(**{k: tuple(v) if isinstance(v, list) else v for k, v in body.items()})  # type: ignore[arg-type]
