"""timm's vision models as encoders: created with named seeds, loaded strictly, preprocessed as timm itself does.

Importing this file imports torch. It refuses weights that leave any part of the encoder unset.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nmtool.encoders.checkpoints import read_safetensors, read_weights
from nmtool.encoders.encoder import ImageEncoder
from nmtool.encoders.facts import check_arch, check_kwargs
from nmtool.encoders.resolved import Resolved
from nmtool.encoders.spec import Preprocessing
from nmtool.encoders.tap import check_feature, full_name, pooled, reached, split_layer, stop_at
from nmtool.encoders.timm_scale import SCALES, scaled
from nmtool.errors import DataError, UsageError


def create(
    arch: str,
    kwargs: Mapping[str, object],
    *,
    num_classes: int | None,
    seed: int,
    device: str = "cpu",
    weights: str = "",
) -> Any:
    """A timm model with seeded random weights; the process's own random state stays as it was.

    Args:
        arch: timm's name for it.
        kwargs: keyword arguments of its constructor.
        num_classes: length of the classifier; None: the architecture's own, 0: none.
        seed: 0 to 2**63 - 1, for the initial weights.
        device: where the parameters are made (``meta``: nowhere).
        weights: a pretrained safetensors file in timm's own naming; empty: none.

    Raises:
        UsageError: timm does not know the architecture or the arguments.
    """
    import timm

    check_arch(arch)
    check_kwargs(kwargs)
    more: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    make = scaled(arch, kwargs)
    if make is not None and weights:
        raise UsageError(f"multipliers for the pretrained {arch}", "the widths it was trained with, or a weights file")
    if weights:
        more |= {"pretrained": True, "pretrained_cfg_overlay": {"file": weights, "custom_load": False}}
    # manual_seed of this generator alone: torch.manual_seed would move CUDA's state too, which is not forked here
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.default_generator.manual_seed(seed)
        try:
            if make is not None:
                return make(**{name: value for name, value in kwargs.items() if name not in SCALES}, **more)
            return timm.create_model(arch, **kwargs, **more)
        except (TypeError, AttributeError, ValueError, AssertionError) as error:
            raise UsageError(
                f"timm can't make {arch} with {dict(kwargs)} ({str(error)[:200]})", "arguments that it takes", ""
            ) from None


def geometry(spec: Preprocessing) -> Any:
    """timm's own evaluation transform of a PIL image up to where values are scaled: uint8 tensor [3, H, W]."""
    from timm.data import create_transform

    return create_transform(
        input_size=(3, *spec.size),
        is_training=False,
        interpolation=spec.interpolation,
        crop_pct=spec.crop_pct,
        crop_mode=spec.crop_mode,
        mean=spec.mean,
        std=spec.std,
        normalize=False,
    )


def normalise(pixels: torch.Tensor, mean: torch.Tensor, std: torch.Tensor) -> torch.Tensor:
    """uint8 [..., 3, H, W] to float32, in the order of torchvision's ToTensor and Normalize, so that bits agree."""
    return pixels.to(torch.float32).div_(255).sub_(mean).div_(std)


class Pixels:
    """An encoder's preprocessing, ready to run in many threads.

    Args:
        spec: size, interpolation, crop, mean and standard deviation.
        device: where normalisation takes place.

    Attributes:
        size: height and width that come out.
    """

    def __init__(self, spec: Preprocessing, device: torch.device | None = None) -> None:
        self.size = spec.size
        self._geometry = geometry(spec)
        self._mean = torch.tensor(spec.mean, device=device).view(3, 1, 1)
        self._std = torch.tensor(spec.std, device=device).view(3, 1, 1)

    def crop(self, image: npt.NDArray[np.uint8]) -> torch.Tensor:
        """RGB uint8 [h, w, 3] of any size, resized and cropped: uint8 [3, H, W]."""
        from PIL import Image

        pixels: torch.Tensor = self._geometry(Image.fromarray(image))
        return pixels

    def normalise(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 [..., 3, H, W] on this device, scaled and normalised to float32."""
        return normalise(pixels, self._mean, self._std)


def tapped(module: Any, feature: str, images: Tensor, who: str) -> tuple[str, Callable[[Any, Tensor], Tensor]]:
    """The full name of a feature of a timm model, and the function that takes it; a layer's hook is set on the model.

    Args:
        module: the model, in evaluation mode.
        feature: ``pre_logits``, ``cls``, ``mean`` or a layer's name.
        images: some prepared images, or anything of their shape: tried once where the outcome's shape decides.
        who: the architecture, for messages.

    Raises:
        UsageError: the model has no such feature; names those it has.
    """
    if feature == "pre_logits":
        return feature, _pre_logits
    has_class = getattr(module, "cls_token", None) is not None
    prefix = getattr(module, "num_prefix_tokens", 0 if not has_class else -1)
    channels_last = getattr(module, "output_fmt", "NCHW") == "NHWC"
    own = _own_features(module, images, has_class, prefix)
    check_feature(feature, own, module, who)
    if feature in own:

        def of_tokens(model: Any, batch: Tensor) -> Tensor:
            return pooled(model.forward_features(batch), feature, prefix=max(prefix, 1 if feature == "cls" else 0))

        def of_map(model: Any, batch: Tensor) -> Tensor:
            return pooled(model.forward_features(batch), feature, channels_last=channels_last)

        return feature, of_tokens if module.forward_features(images).ndim == 3 else of_map
    name, how = split_layer(feature)
    stop_at(module, name)

    def of_layer(model: Any, batch: Tensor) -> Tensor:
        out = reached(lambda: _pre_logits(model, batch), name)
        # a layer inside attention may have other tokens than the trunk: then all of them count
        return pooled(out, how, prefix=max(0, prefix), channels_last=channels_last)

    return full_name(feature, reached(lambda: _pre_logits(module, images), name)), of_layer


def _pre_logits(model: Any, batch: Tensor) -> Tensor:
    out: Tensor = model.forward_head(model.forward_features(batch), pre_logits=True)
    return out


def _own_features(module: Any, images: Tensor, has_class: bool, prefix: int) -> list[str]:
    """What a model has beside its layers. Without a count of the tokens that are no patches there is no mean."""
    last = module.forward_features(images)
    if not isinstance(last, Tensor) or last.ndim not in (3, 4):
        return ["pre_logits"]
    has_mean = last.ndim == 4 or (prefix >= 0 and last.shape[1] > prefix)
    return ["pre_logits"] + ["mean"] * has_mean + ["cls"] * (last.ndim == 3 and has_class)


def load(resolved: Resolved, device: torch.device | None = None) -> ImageEncoder:
    """Build the model and put its weights in; digests are checked against what was resolved.

    Raises:
        UsageError: an architecture or arguments that timm does not know.
        DataError: weights that do not fit: a parameter missing, too many or of another shape; or changed meanwhile.
    """
    spec = resolved.spec
    if spec.preprocessing is None:
        raise UsageError(f"the encoder {spec.arch} without preprocessing", "timm's")
    if resolved.source == "hub":
        assert resolved.path is not None
        read_safetensors(resolved.path, spec.weights)  # so that timm never meets anything but checked safetensors
        module = create(spec.arch, spec.kwargs, num_classes=None, seed=0, weights=str(resolved.path))
        module.reset_classifier(0)
    else:
        module = create(spec.arch, spec.kwargs, num_classes=None, seed=resolved.seed)
        before = set(module.state_dict())
        module.reset_classifier(0)
        if resolved.path is not None:
            put_weights(module, read_weights(resolved.path, spec.weights), before, str(resolved.path))
    module.eval().requires_grad_(False)
    with torch.inference_mode():
        _, tap = tapped(module, spec.feature, torch.zeros(1, 3, *spec.preprocessing.size), spec.arch)
    module.to(device=device, memory_format=torch.channels_last)
    return ImageEncoder(spec=spec, module=module, pixels=Pixels(spec.preprocessing, device), tap=tap)


def put_weights(module: nn.Module, tensors: Mapping[str, torch.Tensor], names: set[str], where: str) -> None:
    """Put tensors into a module without classifier, strictly.

    Args:
        module: the model after ``reset_classifier(0)``.
        tensors: the file's tensors.
        names: the model's names before the classifier was removed: those may be in the file, in any shape.
        where: the file, for messages.

    Raises:
        DataError: a tensor is missing, unknown or of another shape; names the first few.
    """
    own = module.state_dict()
    # The batch counter of a batch norm is used in training alone, and converters leave it out.
    missing = [n for n in own if n not in tensors and not n.endswith("num_batches_tracked")]
    unknown = [n for n in tensors if n not in names]
    shapes = [
        f"{n} {list(tensors[n].shape)} for {list(own[n].shape)}"
        for n in own
        if n in tensors and tensors[n].shape != own[n].shape
    ]
    problems = [
        f"{len(found)} {what} ({', '.join(sorted(found)[:3])}{', …' if len(found) > 3 else ''})"
        for what, found in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
        if found
    ]
    if problems:
        raise DataError(
            f"the tensors of {where} do not fit: {'; '.join(problems)}",
            "every parameter and buffer of the architecture but its classifier",
            "check --arch and --model-kwargs",
        )
    module.load_state_dict({n: t for n, t in tensors.items() if n in own}, strict=False)
