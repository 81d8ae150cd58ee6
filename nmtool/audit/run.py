"""Features and labels in, an ``audit`` artifact out: how probably each label is wrong."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nmtool import settings
from nmtool.artifact.key import Recipe
from nmtool.artifact.stage import Session, Staging, produce
from nmtool.audit.confident import check_there
from nmtool.audit.config import Config
from nmtool.audit.inputs import Inputs, read, resolve
from nmtool.records import ArtifactRef

EPOCH = 1


def run(config: Config, session: Session) -> ArtifactRef:
    """Make (or find) the audit of one split.

    Raises:
        InputMissingError, CorruptError: inputs that are not there or damaged.
        DataError: no class labels, fewer than two classes, features that are not finite, labels of other data.
        UnavailableError: the view ``confident`` without cleanlab.
    """
    inputs = resolve(config)
    cited = [inputs.features.as_input("features")]
    if inputs.labels is not None:
        cited.append(inputs.labels.as_input("labels"))
    recipe = Recipe(
        stage="audit",
        kind="audit",
        epoch=EPOCH,
        config={**settings.keyed(config), "split": inputs.split},
        inputs=tuple(cited),
    )
    model = str(inputs.features.manifest.summary.get("model", "features"))
    return produce(
        session,
        recipe,
        name=f"{model.rpartition('/')[2]}-{inputs.split}",
        config=settings.everything(config),
        # for the reader: which data that was
        origin={"data": str(config.data or inputs.features.manifest.origin.get("data") or "")},
        build=lambda staging: _build(staging, config, inputs, session),
        work=f"audit the labels of split {inputs.split} by {', '.join(config.views)}",
    )


def _build(staging: Staging, config: Config, inputs: Inputs, session: Session) -> Mapping[str, object]:
    version = check_there() if "confident" in config.views else None
    from nmtool.audit.gallery import gallery
    from nmtool.audit.payload import order_of, write
    from nmtool.audit.views import audit
    from nmtool.encoders.device import choose_device, computing_threads

    device = choose_device(config.device)
    judged = read(inputs, session.report)
    with computing_threads(config.workers):
        found = audit(judged, len(inputs.classes), config, device, session.report)
    order = order_of(found)
    pictures = gallery(inputs, judged, order[: config.gallery], config, session.memo, session.report)
    summary = write(staging, judged, inputs.classes, found, order, pictures)
    told = {"split": inputs.split, "views": list(config.views), **summary}
    if inputs.labels is not None:
        told["labels"] = _words(inputs.labels.manifest.summary)
    if version is not None:
        told["cleanlab"] = version
    if found.small_classes:
        session.report.warning(
            f"{len(found.small_classes)} classes have the same loss in all their samples: the mixture calls them clean"
        )
    known = f" (in truth {summary['noise_ratio_true']:.2%})" if "noise_ratio_true" in summary else ""
    session.report.info(
        f"{int(found.wrong.sum())} of {len(judged.rows)} labels are more likely wrong than right; "
        f"estimated noise ratio {found.noise_ratio:.2%}{known}"
    )
    return told


def _words(noise: Mapping[str, Any]) -> str:
    """What a labels artifact says it holds: the type, the ratio that was asked for, and how."""
    ratio = noise.get("ratio_requested")
    asked = f"{100 * ratio:g} %" if isinstance(ratio, (int, float)) else ""
    return " ".join(str(word) for word in (noise.get("type"), asked, noise.get("how")) if word)
