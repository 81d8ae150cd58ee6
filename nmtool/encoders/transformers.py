"""Models of the ``transformers`` library as encoders: texts by its tokenizers, images by its processors.

Importing this file imports torch and transformers. It never runs code that comes with a model, has the library read
safetensors alone (a ``pytorch_model.bin`` is read by ``checkpoints``), and refuses weights that leave a part of the
encoder unset which the feature needs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nmtool.encoders.checkpoints import read_weights
from nmtool.encoders.encoder import ImageEncoder, TextBatch, TextEncoder
from nmtool.encoders.hf_pixels import ProcessorPixels
from nmtool.encoders.hf_tokens import HFTokens
from nmtool.encoders.resolved import Resolved
from nmtool.encoders.tap import check_feature, full_name, pooled, reached, split_layer, stop_at
from nmtool.encoders.transformers_plan import PICKLED, POOLING
from nmtool.errors import DataError, UnavailableError, UsageError

try:
    import transformers
except ImportError as error:
    raise UnavailableError(f"transformers can't be imported ({error})", "", "pip install 'nmtool[text]'") from None

_PREFIX = ("cls_token", "distillation_token", "register_tokens", "dist_token")
_POOLINGS = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean", "pooling_mode_lasttoken": "last"}


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """No bars and no advice: what matters of it is checked here."""
    log: Any = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()


def _own(what: Any, folder: Path) -> Any:
    """A configuration, tokenizer or processor from the files of a folder; never from anywhere else."""
    try:
        with _quietly():
            return what.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except ImportError as error:
        raise UnavailableError(f"{folder} needs a package that is not installed ({_line(error)})", "") from None
    except Exception as error:  # damaged files fail in any way; so do models that bring code along
        raise DataError(
            f"{folder} does not load ({_line(error)})",
            "files as save_pretrained writes them, of a model that transformers knows without further code",
            "fetch them again, or update transformers",
        ) from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _untrained(folder: Path, seed: int, device: str = "cpu") -> Any:
    """The model with seeded random weights; the process's own random state stays as it was."""
    config = _own(transformers.AutoConfig, folder)
    with _quietly(), torch.random.fork_rng(devices=[]), torch.device(device):
        torch.default_generator.manual_seed(seed)
        try:
            make: Any = transformers.AutoModel.from_config
            return make(config, trust_remote_code=False)
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
            raise DataError(
                f"{folder} is no model that transformers can make ({_line(error)})", "one that AutoModel knows"
            ) from None


def find_out(folder: Path, tower: str, feature: str, max_length: int | None) -> dict[str, Any]:
    """What there is to know of a folder's model, as plain JSON: feature, its length, how samples are prepared."""
    problem: Exception | None = None
    for device in ("meta", "cpu"):
        model = _untrained(folder, 0, device).eval()
        try:
            with torch.no_grad():
                if tower == "image":
                    pixels = ProcessorPixels(_own(transformers.AutoImageProcessor, folder), folder.name, None)
                    sample: Any = torch.zeros(2, 3, *pixels.size, device=device)
                    named, tap, module = _image_tap(model, feature, folder.name, sample)
                    preparation = pixels.described()
                else:
                    tokenizer = HFTokens(_own(transformers.AutoTokenizer, folder), model, folder, max_length)
                    sample = tokenizer.probe(device)
                    named, tap, module = _text_tap(model, feature or _default(folder), folder.name, tokenizer, sample)
                    preparation = tokenizer.described()
                return {"feature": named, "dim": int(tap(module, sample).shape[1]), "preparation": preparation}
        except (UsageError, DataError):
            raise
        except Exception as error:  # some models only can't do meta tensors
            problem = error
    raise UsageError(f"the model in {folder} does not run here ({_line(problem or Exception())})", "another model")


def _default(folder: Path) -> str:
    """How sentence-transformers pools this model; empty where the folder does not say."""
    try:
        body = json.loads((folder / POOLING).read_bytes())
    except (OSError, ValueError):
        return ""
    return next((how for key, how in _POOLINGS.items() if isinstance(body, dict) and body.get(key) is True), "")


def load(resolved: Resolved, device: torch.device | None = None) -> ImageEncoder | TextEncoder:
    """Build the model from checked files; what it lacks is an error where the feature needs it."""
    spec, folder = resolved.spec, resolved.folder
    assert folder is not None
    _check(folder, {**spec.files, **resolved.weights})
    lacks: list[str] = []
    if spec.untrained:
        model = _untrained(folder, resolved.seed)
    else:
        model, lacks = _trained(folder, resolved.weights)
    model.float().eval().requires_grad_(False)
    with torch.inference_mode():
        if spec.tower == "image":
            pixels = ProcessorPixels(_own(transformers.AutoImageProcessor, folder), folder.name, device)
            _, tap, module = _image_tap(model, spec.feature, folder.name, torch.zeros(1, 3, *pixels.size))
        else:
            limit = int(str(spec.preparation["max_length"]))
            tokenizer = HFTokens(_own(transformers.AutoTokenizer, folder), model, folder, limit)
            _, tap, module = _text_tap(model, spec.feature, folder.name, tokenizer, tokenizer.probe("cpu"))
    _check_whole(lacks, spec.feature, folder)
    module.to(device=device)
    if spec.tower == "image":
        return ImageEncoder(spec=spec, module=module, pixels=pixels, tap=tap)
    return TextEncoder(spec=spec, module=module, tokenizer=tokenizer, tap=tap)


def _check(folder: Path, digests: Mapping[str, str]) -> None:
    for name, digest in digests.items():
        sha = hashlib.sha256()
        with (folder / name).open("rb") as stream:
            while block := stream.read(1 << 20):
                sha.update(block)
        if "sha256:" + sha.hexdigest() != digest:
            raise DataError(f"{folder / name} has other bytes than when it was resolved", digest, "run it again")


def _trained(folder: Path, weights: Mapping[str, str]) -> tuple[Any, list[str]]:
    """The model, and the parameters that its weights do not give."""
    where: dict[str, Any] = {"pretrained_model_name_or_path": str(folder), "use_safetensors": True}
    kind: Any = transformers.AutoModel
    if PICKLED in weights:
        state = read_weights(folder / PICKLED, weights[PICKLED])
        config = _own(transformers.AutoConfig, folder)
        where = {"pretrained_model_name_or_path": None, "config": config, "state_dict": state}
        kind = type(_untrained(folder, 0, "meta"))
    try:
        with _quietly(), torch.random.fork_rng(devices=[]):
            model, told = kind.from_pretrained(
                **where, local_files_only=True, trust_remote_code=False, output_loading_info=True
            )
    except Exception as error:
        raise DataError(
            f"the weights in {folder} do not load ({_line(error)})", "safetensors of this model", "fetch them again"
        ) from None
    odd = [str(name) for name in told.get("mismatched_keys", ())]
    if odd or told.get("error_msgs"):
        raise DataError(f"{folder} has weights of another shape ({', '.join(odd[:3])})", "its configuration's")
    return model, sorted(told.get("missing_keys", ()))


def _check_whole(lacks: list[str], feature: str, folder: Path) -> None:
    """Refuse random parameters. A pooler that nobody trained is common, and no harm where it takes no part."""
    needed = [name for name in lacks if feature == "pre_logits" or "pooler" not in name.split(".")]
    if needed:
        raise DataError(
            f"the weights in {folder} leave {len(needed)} parameters unset ({', '.join(needed[:3])})",
            "all that the feature needs",
            "take another --feature" if feature == "pre_logits" else "fetch the whole model",
        )


Tap = Callable[[Any, Any], Tensor]


def _text_tap(model: Any, feature: str, who: str, tokenizer: HFTokens, batch: TextBatch) -> tuple[str, Tap, nn.Module]:
    """Full name of a feature, what takes it, and the part of the model that it needs."""
    if hasattr(model, "get_text_features"):
        return _shared_space(model, feature, who, "text", batch)
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    out = model(**batch.inputs, return_dict=True)
    own = ["cls"] * tokenizer.has_class + ["mean", "last"]
    own += ["pre_logits"] * (getattr(out, "pooler_output", None) is not None)
    # encoders are read at their class token, as their classifiers do; decoders where everything has been read
    default = "cls" if tokenizer.has_class else "mean" if tokenizer.two_way else "last"
    feature = feature or default
    check_feature(feature, own, model, who)

    def call(module: Any, batch: TextBatch) -> Any:
        more = {"use_cache": False} if hasattr(module.config, "use_cache") else {}
        return module(**batch.inputs, attention_mask=batch.mask, return_dict=True, **more)

    if feature == "pre_logits":
        return feature, lambda module, batch: call(module, batch).pooler_output, model
    if feature in own:

        def of_tokens(module: Any, batch: TextBatch) -> Tensor:
            return pooled(call(module, batch).last_hidden_state, feature, mask=batch.mask, cls=batch.cls)

        return feature, of_tokens, model
    name, how = split_layer(feature)
    if how == "cls" and not tokenizer.has_class:
        raise UsageError(f"--feature {feature} of {who}, which has no class token", "mean or last")
    stop_at(model, name)

    def of_layer(module: Any, batch: TextBatch) -> Tensor:
        return pooled(reached(lambda: call(module, batch), name), how, mask=batch.mask, cls=batch.cls)

    return full_name(feature, reached(lambda: model(**batch.inputs, return_dict=True), name)), of_layer, model


def _image_tap(model: Any, feature: str, who: str, images: Tensor) -> tuple[str, Tap, nn.Module]:
    if hasattr(model, "get_image_features"):
        return _shared_space(model, feature, who, "image", images)
    out = model(pixel_values=images, return_dict=True)
    tokens = [p for n, p in model.named_parameters() if n.rpartition(".")[2] in _PREFIX]
    prefix = sum(int(p.shape[-2]) for p in tokens)
    has_class = any(n.rpartition(".")[2] == "cls_token" for n, _ in model.named_parameters())
    own = ["cls"] * has_class + ["mean"] + ["pre_logits"] * (getattr(out, "pooler_output", None) is not None)
    feature = feature or ("cls" if has_class else "pre_logits" if "pre_logits" in own else "mean")
    check_feature(feature, own, model, who)
    if feature == "pre_logits":
        return (
            feature,
            lambda module, batch: module(pixel_values=batch, return_dict=True).pooler_output.flatten(1),
            model,
        )
    if feature in own:

        def of_last(module: Any, batch: Tensor) -> Tensor:
            return pooled(module(pixel_values=batch, return_dict=True).last_hidden_state, feature, prefix=prefix)

        return feature, of_last, model
    name, how = split_layer(feature)
    stop_at(model, name)

    def of_layer(module: Any, batch: Tensor) -> Tensor:
        return pooled(reached(lambda: module(pixel_values=batch), name), how, prefix=prefix)

    return full_name(feature, reached(lambda: model(pixel_values=images), name)), of_layer, model


def _shared_space(model: Any, feature: str, who: str, tower: str, sample: Any) -> tuple[str, Tap, nn.Module]:
    """Models of images and texts (CLIP, SigLIP): what they project into the space that both share."""
    check_feature(feature or "projected", ["projected"], nn.Identity(), who)

    def of_texts(module: Any, batch: TextBatch) -> Tensor:
        return _vector(module.get_text_features(**batch.inputs, attention_mask=batch.mask))

    def of_images(module: Any, batch: Tensor) -> Tensor:
        return _vector(module.get_image_features(pixel_values=batch))

    return "projected", of_texts if tower == "text" else of_images, model


def _vector(out: Any) -> Tensor:
    """A newer transformers gives a record, an older one the tensor."""
    found: Tensor = out if isinstance(out, Tensor) else out.pooler_output
    return found
