"""timm's vision models as encoders: created with named seeds, loaded strictly, preprocessed as timm itself does.

Importing this file imports torch. It refuses weights that leave any part of the encoder unset.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from nmtool.encoders.checkpoints import read_safetensors
from nmtool.encoders.facts import check_arch, check_kwargs
from nmtool.encoders.spec import EncoderSpec, Preprocessing
from nmtool.errors import DataError, UsageError

if TYPE_CHECKING:
    from nmtool.encoders.resolve import Resolved


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
    if weights:
        more |= {"pretrained": True, "pretrained_cfg_overlay": {"file": weights, "custom_load": False}}
    # manual_seed of this generator alone: torch.manual_seed would move CUDA's state too, which is not forked here
    with torch.random.fork_rng(devices=[]), torch.device(device):
        torch.default_generator.manual_seed(seed)
        try:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoder:
    """A loaded encoder.

    Attributes:
        spec: what it is.
        module: the model without classifier, in evaluation mode: ``module(batch)`` gives [B, D], and
            ``reset_classifier(C)`` puts a fresh classifier on it.
        pixels: its preprocessing.
    """

    spec: EncoderSpec
    module: Any
    pixels: Pixels

    def features(self, batch: torch.Tensor) -> torch.Tensor:
        """What enters the classifier: float [B, D] of prepared images [B, 3, H, W]."""
        out: torch.Tensor = self.module.forward_head(self.module.forward_features(batch), pre_logits=True)
        return out

    def prepare(self, image: npt.NDArray[np.uint8]) -> torch.Tensor:
        """RGB uint8 [h, w, 3] as float32 [3, H, W]: timm's own evaluation transform, bit for bit."""
        return self.pixels.normalise(self.pixels.crop(image))


def load(resolved: Resolved, device: torch.device | None = None) -> Encoder:
    """Build the model and put its weights in; digests are checked against what was resolved.

    Raises:
        UsageError: an architecture or arguments that timm does not know.
        DataError: weights that do not fit: a parameter missing, too many or of another shape; or changed meanwhile.
    """
    spec = resolved.spec
    if spec.family != "timm" or spec.preprocessing is None:
        raise UsageError(f"the encoder family {spec.family!r}", "timm")
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
            put_weights(module, read_safetensors(resolved.path, spec.weights), before, str(resolved.path))
    module.eval().requires_grad_(False)
    module.to(device=device, memory_format=torch.channels_last)
    return Encoder(spec=spec, module=module, pixels=Pixels(spec.preprocessing, device))


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
