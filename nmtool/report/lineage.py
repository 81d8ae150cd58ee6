"""Where a result comes from: features, the backbone that made them, the labels it was pre-trained on.

Artifacts cite their inputs by content, so what stands in one report's inputs is joined by digest; what is not among
them stays unknown (None) and is never guessed. Paths are cut to their last part: a report names data, not machines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from nmtool.artifact.format import canonical, sha256
from nmtool.artifact.open import Artifact

_FILES = ("folder", "table", "wds", "arrays")
_HUBS = ("timm", "open_clip", "transformers", "openai", "suite", "hf", "torchvision")


def short_name(text: str) -> str:
    """A data URI or a path without its folders: ``folder:/a/pacs`` is ``folder:pacs``, ``/a/b.npz`` is ``b.npz``."""
    scheme, colon, rest = text.partition(":")
    if colon and scheme in _HUBS:
        return text
    prefix, body = (f"{scheme}:", rest) if colon and scheme in _FILES else ("", text)
    return prefix + re.sub(r"[^,=?&]*[/\\](?=[^,=?&])", "", body).rstrip("/\\")


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """Label noise of a training set: the ratio in [0, 1] and its type ('' where nothing is wrong)."""

    ratio: float
    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What is known of some features.

    Attributes:
        data: digest of the dataset, or of the features themselves where that is unknown.
        data_name: the dataset as a reader knows it; '' where unknown.
        model: the encoder's name; '' where unknown.
        untrained: its weights are random.
        setup: digest of how backbone and features were made, seeds and (where it was pre-trained with nmtool) weights
            left out: what has another set-up is never averaged with this.
        pretrain: label noise it was pre-trained with, where the chain is among the inputs.
    """

    data: str
    data_name: str
    model: str
    untrained: bool
    setup: str
    pretrain: Noise | None


def overlays(which: object, cited: list[str]) -> list[str]:
    """Digests of the labels of one run: its column names one of those cited by digest or by position; else all."""
    if isinstance(which, int) and 0 <= which < len(cited):
        return [cited[which]]
    content = content_of(which) or (which if isinstance(which, str) else "")
    if content:
        return [c for c in cited if c.removeprefix("sha256:").startswith(content.removeprefix("sha256:"))] or cited
    return cited


def content_of(name: object) -> str | None:
    """The digits in ``features-0123456789ab``, as a payload names an artifact by content; else None."""
    found = re.fullmatch(r"(?:features|labels)-([0-9a-f]{12,64})", name) if isinstance(name, str) else None
    return found[1] if found else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


class Lineage:
    """The artifacts of one report, found by content digest."""

    def __init__(self, artifacts: Iterable[Artifact]) -> None:
        self._by_content = {a.manifest.content: a for a in artifacts}

    def find(self, digest: str, kind: str) -> Artifact | None:
        """The artifact with this content digest, or with the digest that begins so (12 hex digits or more)."""
        whole = digest if digest.startswith("sha256:") else f"sha256:{digest}"
        exact = self._by_content.get(whole)
        if exact is not None:
            return exact if exact.manifest.kind == kind else None
        if len(whole) < len("sha256:") + 12:
            return None
        near = [a for c, a in self._by_content.items() if c.startswith(whole) and a.manifest.kind == kind]
        return near[0] if len(near) == 1 else None

    def cited(self, artifact: Artifact, kind: str) -> list[Artifact]:
        """The inputs of one kind of an artifact that are among the report's."""
        found = (self.find(i.content, kind) for i in artifact.manifest.inputs if i.kind == kind)
        return [a for a in found if a is not None]

    def label_noise(self, artifact: Artifact) -> Noise | None:
        """Noise of the labels that an artifact was trained on: see ``noise_of``."""
        return self.noise_of([i.content for i in artifact.manifest.inputs if i.kind == "labels"])

    def noise_of(self, contents: list[str]) -> Noise | None:
        """Noise of some labels artifacts together: none where there are none, unknown where one is not here."""
        if not contents:
            return Noise(ratio=0.0, type="")
        overlays = [self.find(content, "labels") for content in contents]
        summaries = [overlay.manifest.summary for overlay in overlays if overlay is not None]
        return _noise(summaries) if len(summaries) == len(contents) else None

    def origin(self, digest: str) -> Origin | None:
        """What is known of the features with this digest; None where they are not among the inputs."""
        features = self.find(digest, "features")
        if features is None:
            return None
        manifest = features.manifest
        data = next((i.content for i in manifest.inputs if i.role == "data"), manifest.content)
        backbone = next(iter(self.cited(features, "backbone")), None)
        encoder = manifest.recipe.get("config", {}).get("encoder", {})
        spec = encoder if isinstance(encoder, Mapping) else {}
        arch = _text(spec.get("arch")) or _text(manifest.origin.get("arch"))
        if backbone is not None:
            arch = arch or _text(backbone.manifest.summary.get("arch"))
        pretrain = self.label_noise(backbone) if backbone is not None else None
        return Origin(
            data=_same_data(features, data),
            data_name=short_name(_text(manifest.origin.get("data"))),
            model=short_name(arch or _text(manifest.summary.get("model"))),
            untrained=spec.get("untrained") is True,
            setup=_setup(manifest.recipe.get("config", {}), backbone, pretrain is not None),
            pretrain=pretrain,
        )


def _setup(features: Mapping[str, object], backbone: Artifact | None, noise_known: bool) -> str:
    """What made the features but for a seed: how they were extracted, and how and on what the backbone was trained."""
    how = dict(features)
    if backbone is None:
        return sha256(canonical(how))[7:15]
    encoder = how.get("encoder")
    if isinstance(encoder, Mapping):
        how["encoder"] = {k: v for k, v in encoder.items() if k != "weights"}
    trained = {k: v for k, v in backbone.manifest.recipe.get("config", {}).items() if k != "seed"}
    # Labels count by their noise where it is known, else by content; the data always.
    given = [i.content for i in backbone.manifest.inputs if i.role == "data" or not noise_known]
    return sha256(canonical([how, trained, given]))[7:15]


def _same_data(features: Artifact, data: str) -> str:
    """Digest of the data, whichever of its splits were extracted: the training split's where the summary tells it."""
    splits = features.manifest.summary.get("splits")
    if isinstance(splits, Mapping) and isinstance(splits.get("train"), Mapping):
        return _text(splits["train"].get("digest")) or data
    return data


def _noise(summaries: list[Mapping[str, object]]) -> Noise | None:
    """One figure for one or several overlays: the ratio asked for, else the realised one, weighted by samples."""
    ratios, weights, types = [], [], []
    for summary in summaries:
        ratio = summary.get("ratio_requested")
        ratio = summary.get("ratio") if ratio is None else ratio
        n = summary.get("n", 1)
        if not isinstance(ratio, (int, float)) or not isinstance(n, (int, float)):
            return None
        ratios.append(float(ratio))
        weights.append(float(n))
        if ratio:
            types.append(_text(summary.get("type")))
    total = sum(r * w for r, w in zip(ratios, weights, strict=True)) / max(sum(weights), 1.0)
    return Noise(ratio=ratios[0] if len(ratios) == 1 else total, type=" + ".join(dict.fromkeys(types)))
