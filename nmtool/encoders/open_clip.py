"""open_clip's models as encoders: one tower, created with named seeds, loaded strictly, prepared as open_clip does.

Importing this file imports torch and open_clip. Weights are read by ``checkpoints`` alone: open_clip never opens a file
itself.
"""

from __future__ import annotations

import contextlib
import difflib
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from nmtool.encoders.checkpoints import read_weights
from nmtool.encoders.encoder import ImageEncoder, TextBatch, TextEncoder
from nmtool.encoders.resolved import Resolved
from nmtool.encoders.tap import check_feature, full_name, pooled, reached, split_layer, stop_at
from nmtool.encoders.timm import Pixels, put_weights
from nmtool.errors import DataError, UnavailableError, UsageError

try:
    import open_clip
    from open_clip import factory, pretrained, transform
except ImportError as error:
    raise UnavailableError(f"open_clip can't be imported ({error})", "", "pip install 'nmtool[clip]'") from None

CROP_MODES = {"shortest": "center", "squash": "squash"}  # open_clip's words for what timm's transform does, too


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """open_clip tells the root logger about every model without weights; here that is the plan."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def create(arch: str, kwargs: Mapping[str, object], size: int | None, *, seed: int, device: str = "cpu") -> Any:
    """An open_clip model with seeded random weights; the process's own random state stays as it was.

    Raises:
        UsageError: open_clip does not know the architecture, the arguments or the size.
        UnavailableError: it is made of another library's model whose configuration can't be had.
    """
    if arch not in open_clip.list_models():
        near = ", ".join(difflib.get_close_matches(arch, open_clip.list_models(), n=3))
        raise UsageError(
            f"open_clip knows no architecture {arch!r}",
            "a name of open_clip's",
            f"did you mean {near}?" if near else "open_clip.list_models() lists them",
        )
    with _quietly(), torch.random.fork_rng(devices=[]), torch.device(device):
        torch.default_generator.manual_seed(seed)
        try:
            return open_clip.create_model(
                arch, device=device, force_image_size=size, pretrained_image=False, pretrained_text=False, **kwargs
            )
        except OSError as error:
            why = str(error).strip().splitlines()[0][:200]
            raise UnavailableError(f"open_clip can't make {arch} without the hub ({why})", "") from None
        except (TypeError, AttributeError, ValueError, AssertionError, RuntimeError) as error:
            raise UsageError(
                f"open_clip can't make {arch} with {dict(kwargs)}{f' at {size} pixels' if size else ''} "
                f"({str(error)[:200]})",
                "arguments and a size that it takes",
            ) from None


def find_out(
    arch: str, tag: str, kwargs: Mapping[str, object], size: int | None, tower: str, feature: str
) -> dict[str, Any]:
    """What there is to know of an architecture and a pretrained tag, as plain JSON; see ``open_clip_plan``."""
    cfg = _tag(arch, tag, kwargs)
    problem: Exception | None = None
    for device in ("meta", "cpu"):
        model = create(arch, kwargs, size, seed=0, device=device).eval()
        prepared = transform.merge_preprocess_dict(asdict(transform.PreprocessCfg()), cfg)
        prepared["size"] = model.visual.image_size
        if size is not None and _square(prepared["size"]) != (size, size):
            raise UsageError(f"--image-size {size} beside --model-kwargs that set another", "one of them")
        tokenizer, hub_name, length = _tokenizer_facts(arch, kwargs)
        try:
            with torch.no_grad():
                named, tap, module = _tapped(model, tower, feature, f"open_clip's {arch}", device)
                dim = int(tap(module, _probe(tower, prepared["size"], length, device)).shape[1])
        except UsageError:
            raise
        except Exception as error:  # some architectures only can't do meta tensors
            problem = error
            continue
        return {
            "preprocessing": _preprocessing(prepared, arch),
            "feature": named,
            "dim": dim,
            "hub": _hub(cfg),
            "tags": pretrained.list_pretrained_tags_by_model(arch),
            "tokenizer": hub_name if tower == "text" else "",
            "preparation": {"tokenizer": tokenizer, "max_length": length} if tower == "text" else {},
        }
    raise UsageError(f"open_clip's {arch} does not run here ({str(problem)[:200]})", "another architecture or size")


def _tag(arch: str, tag: str, kwargs: Mapping[str, object]) -> dict[str, Any]:
    """open_clip's record of a pretrained tag; refuses one that was trained with another activation."""
    if not tag:
        return {}
    cfg = dict(pretrained.get_pretrained_cfg(arch, tag))
    if not cfg:
        tags = ", ".join(pretrained.list_pretrained_tags_by_model(arch)) or "none"
        raise UsageError(f"open_clip knows no pretrained tag {tag!r} of {arch}", f"one of {tags}")
    own = bool((factory.get_model_config(arch) or {}).get("quick_gelu", False))
    if bool(cfg.get("quick_gelu", False)) != bool(kwargs.get("quick_gelu", own)):
        other = arch.removesuffix("-quickgelu") if own else f"{arch}-quickgelu"
        raise UsageError(
            f"the weights {tag} of {arch} were trained {'without' if own else 'with'} QuickGELU",
            "the architecture they were trained with, else features are wrong without looking wrong",
            f"take open_clip:{other}/{tag}",
        )
    return cfg


def _preprocessing(prepared: Mapping[str, Any], arch: str) -> dict[str, Any]:
    height, width = _square(prepared["size"])
    if prepared["resize_mode"] not in CROP_MODES or (height != width and prepared["resize_mode"] != "squash"):
        raise UsageError(f"{arch} resizes by {prepared['resize_mode']} to {height} x {width}", "a square, or squash")
    return {
        "size": [int(height), int(width)],
        "interpolation": "bilinear" if prepared["interpolation"] == "bilinear" else "bicubic",
        "crop_pct": 1.0,
        "crop_mode": CROP_MODES[prepared["resize_mode"]],
        "mean": [float(v) for v in prepared["mean"]],
        "std": [float(v) for v in prepared["std"]],
    }


def _square(size: Any) -> tuple[int, int]:
    return (int(size), int(size)) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _hub(cfg: Mapping[str, Any]) -> list[str]:
    """Repository and file names, safetensors first; empty where open_clip has none on the hub."""
    where = str(cfg.get("hf_hub") or "")
    if not where:
        return []
    repo, _, file = where.rpartition("/")
    if not file:
        return [repo, "open_clip_model.safetensors", "open_clip_pytorch_model.bin"]
    stem, _, suffix = file.rpartition(".")
    return [repo, file] if suffix == "safetensors" else [repo, f"{stem}.safetensors", file]


def _tokenizer_facts(arch: str, kwargs: Mapping[str, object]) -> tuple[str, str, int]:
    """Which tokenizer an architecture has, its hub repository (empty: open_clip's own), and the context length."""
    text = (factory.get_model_config(arch) or {}).get("text_cfg", {})
    given = kwargs.get("text_cfg", text)
    length = int(given.get("context_length", 77)) if isinstance(given, Mapping) else 77
    repo = str(text.get("hf_tokenizer_name") or "")
    return repo or "open_clip", repo, length


def _probe(tower: str, size: Any, length: int, device: str) -> Any:
    if tower == "image":
        return torch.zeros(2, 3, *_square(size), device=device)
    ids = torch.ones(2, length, dtype=torch.long, device=device)
    return TextBatch(inputs={"text": ids}, mask=torch.ones_like(ids), cls=None)


def load(resolved: Resolved, device: torch.device | None = None) -> ImageEncoder | TextEncoder:
    """Build the model, put its weights in, keep one tower."""
    spec = resolved.spec
    arch = spec.arch.partition("/")[0]
    own = (factory.get_model_config(arch) or {}).get("vision_cfg", {}).get("image_size")
    size = spec.preprocessing.size[0] if spec.preprocessing is not None else None
    model = create(arch, spec.kwargs, size if size != own else None, seed=resolved.seed)
    if resolved.path is not None:
        tensors = _converted(model, read_weights(resolved.path, spec.weights), str(resolved.path))
        put_weights(model, tensors, set(model.state_dict()), str(resolved.path))
    model.eval().requires_grad_(False)
    with torch.inference_mode():
        _, tap, module = _tapped(model, spec.tower, spec.feature, spec.arch, "cpu")
    if spec.preprocessing is not None:
        module = module.to(device).to(memory_format=torch.channels_last)
        return ImageEncoder(spec=spec, module=module, pixels=Pixels(spec.preprocessing, device), tap=tap)
    module.to(device=device)
    from nmtool.encoders.clip_tokens import ClipTokenizer

    tokenizer = ClipTokenizer(arch, resolved.folder, int(str(spec.preparation["max_length"])))
    return TextEncoder(spec=spec, module=module, tokenizer=tokenizer, tap=tap)


def _converted(model: Any, tensors: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """A checkpoint's tensors in the naming and the sizes of this model, by open_clip's own conversions."""
    state: dict[str, Tensor] = dict(tensors)
    try:
        with _quietly():
            state = dict(factory.convert_state_dict(model, state))
            if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
                state = dict(factory.convert_to_custom_text_state_dict(state))
            for name in ("logit_scale", "logit_bias"):
                if name in state and getattr(model, name, None) is not None:
                    state[name] = state[name].reshape(getattr(model, name).shape)
            if not hasattr(model, "text.transformer.embeddings.position_ids"):
                state.pop("text.transformer.embeddings.position_ids", None)
            factory.resize_pos_embed(state, model)
            factory.resize_text_pos_embed(state, model)
    except (KeyError, RuntimeError, ValueError, AttributeError, IndexError) as error:
        raise DataError(
            f"the tensors of {where} are no {type(model).__name__}'s ({str(error)[:160]})",
            "every parameter of the architecture",
            "check --arch",
        ) from None
    return state


Tap = Callable[[Any, Any], Tensor]


def _tapped(model: Any, tower: str, feature: str, who: str, device: str) -> tuple[str, Tap, nn.Module]:
    """Full name of a feature, what takes it, and the part of the model that it needs."""
    return _image_tap(model, feature, who, device) if tower == "image" else _text_tap(model, feature, who, device)


def _image_tap(model: Any, feature: str, who: str, device: str) -> tuple[str, Tap, nn.Module]:
    visual = model.visual
    vit = isinstance(visual, open_clip.transformer.VisionTransformer)
    own = ["projected"]
    if vit:
        own += ["pre_logits", "mean"] + ["cls"] * (visual.pool_type == "tok" and visual.attn_pool is None)
    elif hasattr(visual, "trunk"):
        own += ["pre_logits"]
    check_feature(feature, own, visual, who)
    if feature == "projected":
        return feature, lambda module, batch: _first(module(batch)), visual
    if feature == "pre_logits" and not vit:
        return feature, lambda module, batch: _first(module.trunk(batch)), visual
    if feature in own:
        visual.proj, visual.output_tokens = None, True  # as its own prune_intermediate_layers takes the head off
        if feature == "mean":
            return feature, lambda module, batch: pooled(module(batch)[1], "mean"), visual
        return feature, lambda module, batch: _first(module(batch)), visual
    name, how = split_layer(feature)
    stop_at(visual, name)
    prefix = 1 if vit else 0

    def of_layer(module: Any, batch: Tensor) -> Tensor:
        return pooled(reached(lambda: module(batch), name), how, prefix=prefix)

    out = reached(lambda: visual(_probe("image", visual.image_size, 0, device)), name)
    return full_name(feature, out), of_layer, visual


def _text_tap(model: Any, feature: str, who: str, device: str) -> tuple[str, Tap, nn.Module]:
    model.visual = None
    holder = model if hasattr(model, "text_projection") else model.text
    native = hasattr(holder, "text_projection")
    own = ["projected"] + ["pre_logits"] * native
    check_feature(feature, own, model, who)

    def encode(module: Any, batch: TextBatch) -> Tensor:
        # CoCa's own encode_text normalises unless told not to, the others unless told to
        return _first(module.encode_text(batch.inputs["text"], normalize=False))

    if feature == "pre_logits":
        holder.text_projection = None
    if feature in own:
        return feature, encode, model
    name, how = split_layer(feature)
    stop_at(model, name)

    def of_layer(module: Any, batch: TextBatch) -> Tensor:
        out = reached(lambda: encode(module, batch), name)
        # CoCa has its class token at the end of the sequence: it is no word
        mask = batch.mask if out.ndim != 3 or out.shape[1] == batch.mask.shape[1] else _longer(batch.mask, out.shape[1])
        return pooled(out, how, mask=mask)

    batch = _probe("text", 0, int(model.context_length), device)
    return full_name(feature, reached(lambda: encode(model, batch), name)), of_layer, model


def _first(out: Any) -> Tensor:
    found: Tensor = out[0] if isinstance(out, tuple) else out
    return found


def _longer(mask: Tensor, length: int) -> Tensor:
    return nn.functional.pad(mask, (0, length - mask.shape[1]))
