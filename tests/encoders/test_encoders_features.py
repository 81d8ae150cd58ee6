"""Which tensor is the feature: timm's and transformers' vision models against their own parts, refusals, keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import timm
import timm.data
import torch
import transformers
from encoder_samples import ask, images
from PIL import Image

from nmtool.data.images import decode
from nmtool.encoders.spec import EncoderSpec, from_json
from nmtool.encoders.tap import pooled
from nmtool.encoders.timm import create
from nmtool.errors import UsageError


def timm_model(arch: str) -> Any:
    return create(arch, {}, num_classes=None, seed=0).eval()


def feature(arch: str, name: str, **more: Any) -> Any:
    return images(ask(f"timm:{arch}", untrained=True, feature=name, **more))


@pytest.mark.parametrize(
    "arch", ["test_vit", "test_vit2", "test_resnet", "test_convnext", "swin_tiny_patch4_window7_224"]
)
def test_timms_features_are_what_their_names_say(arch: str) -> None:
    model = timm_model(arch)
    encoder = feature(arch, "mean")
    batch = torch.rand(2, 3, *encoder.spec.preprocessing.size)
    with torch.no_grad():
        last = model.forward_features(batch)
        before = model.forward_head(last, pre_logits=True)
    if last.ndim == 3:
        mean = last[:, model.num_prefix_tokens :].mean(1)
    else:
        mean = last.mean((1, 2) if last.shape[-1] == model.num_features else (2, 3))
    assert (encoder.features(batch) - mean).abs().max() <= 1e-5
    assert encoder.spec.dim == mean.shape[1]
    # without its classifier's own file for comparison: one operation more or less in fused attention
    assert (feature(arch, "pre_logits").features(batch) - before).abs().max() <= 1e-4
    if getattr(model, "cls_token", None) is None:
        with pytest.raises(UsageError, match="pre_logits, mean"):
            feature(arch, "cls")
    else:
        assert (feature(arch, "cls").features(batch) - last[:, 0]).abs().max() <= 1e-5


def test_layers_are_timms_own_intermediates() -> None:
    model = timm_model("test_vit")
    batch = torch.rand(2, 3, 160, 160)
    with torch.no_grad():
        found = model.forward_intermediates(batch, output_fmt="NLC", return_prefix_tokens=True, intermediates_only=True)
    for number, (patches, prefix) in enumerate(found):
        for how, wanted in (("", patches.mean(1)), (":mean", patches.mean(1)), (":cls", prefix[:, 0])):
            encoder = feature("test_vit", f"blocks.{number}{how}")
            assert (encoder.features(batch) - wanted).abs().max() <= 1e-5
            assert encoder.spec.feature == f"blocks.{number}{how or ':mean'}"
    model = timm_model("test_resnet")
    with torch.no_grad():
        maps = model.forward_intermediates(batch, intermediates_only=True)
    assert (feature("test_resnet", "layer2").features(batch) - maps[-3].mean((2, 3))).abs().max() <= 1e-5


def test_real_photographs_through_timms_own_pipeline(real_data: Callable[[str], Path]) -> None:
    every = sorted((real_data("pacs") / "pacs" / "photo" / "train").glob("*/*.jpg"))[::3][:256]
    assert len(every) == 256
    encoder = feature("test_vit", "cls")
    model, spec = timm_model("test_vit"), encoder.spec.preprocessing
    prepare = timm.data.create_transform(
        spec.size, interpolation=spec.interpolation, crop_pct=spec.crop_pct, mean=spec.mean, std=spec.std
    )
    with torch.no_grad():
        wanted = model.forward_features(torch.stack([prepare(Image.open(p).convert("RGB")) for p in every]))[:, 0]
    found = encoder.features(torch.stack([encoder.prepare(decode(p.read_bytes(), name=p.name)) for p in every]))
    assert (found - wanted).abs().max() <= 1e-5


VISION: list[tuple[Any, Any, str]] = [
    (
        lambda: transformers.ViTModel(
            transformers.ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
        ),
        lambda: transformers.ViTImageProcessor(),
        "cls",
    ),
    (
        lambda: transformers.Dinov2WithRegistersModel(
            transformers.Dinov2WithRegistersConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
        ),
        lambda: transformers.BitImageProcessor(
            size={"shortest_edge": 256}, crop_size={"height": 224, "width": 224}, image_std=[0.229, 0.224, 0.225]
        ),
        "cls",
    ),
    (
        lambda: transformers.ConvNextModel(
            transformers.ConvNextConfig(hidden_sizes=[8, 16, 16, 32], depths=[1, 1, 1, 1])
        ),
        lambda: transformers.ConvNextImageProcessor(),
        "pre_logits",
    ),
]


@pytest.mark.parametrize(("make", "processor", "default"), VISION, ids=["vit", "dinov2_registers", "convnext"])
def test_transformers_vision_models_agree_with_their_own_path(
    real_data: Callable[[str], Path], tmp_path: Path, make: Any, processor: Any, default: str
) -> None:
    every = sorted((real_data("pacs") / "pacs" / "photo" / "train").glob("*/*.jpg"))[::3][:256]
    make().save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    model = transformers.AutoModel.from_pretrained(tmp_path).eval()
    prepare = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    pixels = prepare([Image.open(path).convert("RGB") for path in every], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        out = model(pixel_values=pixels)
    last = out.last_hidden_state
    prefix = 1 + getattr(model.config, "num_register_tokens", 0)
    wanted = {
        "pre_logits": out.pooler_output.flatten(1),
        "cls": last[:, 0] if last.ndim == 3 else None,
        "mean": last[:, prefix:].mean(1) if last.ndim == 3 else last.mean((2, 3)),
    }
    assert ask(f"transformers:{tmp_path}").spec.feature == default
    for name, values in wanted.items():
        if values is None:
            continue
        encoder = images(ask(f"transformers:{tmp_path}", feature=name))
        batch = torch.stack([encoder.prepare(decode(path.read_bytes(), name=path.name)) for path in every])
        assert torch.equal(batch, pixels)
        assert (encoder.features(batch) - values).abs().max() <= 1e-5, name
    with pytest.raises(UsageError, match="mean"):
        ask(f"transformers:{tmp_path}", feature="last")


def test_models_of_images_and_texts_give_their_shared_space(tmp_path: Path) -> None:
    from encoder_samples import encode, texts, tokenizer

    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.CLIPConfig(
        text_config={**small, "vocab_size": 320, "eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 1},
        vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=24,
    )
    transformers.CLIPModel(config).save_pretrained(tmp_path)
    size = {"shortest_edge": 32}
    transformers.CLIPImageProcessor(size=size, crop_size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    tokenizer(tmp_path, {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}, first="<s>", last="</s>")
    model = transformers.AutoModel.from_pretrained(tmp_path).eval()
    batch = torch.rand(2, 3, 32, 32)
    tok = transformers.AutoTokenizer.from_pretrained(tmp_path)
    samples = ["a cat", "the dog sat on a mat so it was"]
    with torch.no_grad():
        seen = model.visual_projection(model.vision_model(pixel_values=batch).pooler_output)
        read = [model.text_projection(model.text_model(**tok(s, return_tensors="pt")).pooler_output) for s in samples]
    assert (images(ask(f"transformers:{tmp_path}")).features(batch) - seen).abs().max() <= 1e-5
    found = encode(texts(ask(f"transformers:{tmp_path}", tower="text")), [(s,) for s in samples], 2)
    assert (found - torch.cat(read)).abs().max() <= 1e-5


def test_normalize_gives_unit_vectors() -> None:
    batch = torch.rand(3, 3, 160, 160)
    plain, unit = feature("test_vit", "cls"), feature("test_vit", "cls", normalize=True)
    assert torch.allclose(unit.features(batch).norm(dim=1), torch.ones(3))
    assert torch.allclose(unit.features(batch) * plain.features(batch).norm(dim=1)[:, None], plain.features(batch))


def test_many_threads_share_a_tapped_model() -> None:
    encoder = feature("test_vit", "blocks.1")
    batches = [torch.rand(2, 3, 160, 160) for _ in range(24)]
    with torch.inference_mode():
        wanted = [encoder.features(batch) for batch in batches]

    def work(batch: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            out: torch.Tensor = encoder.features(batch)
        return out

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(work, batches))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("projected", "pre_logits, mean, cls"),
        ("last", "pre_logits, mean, cls"),
        ("blocks.77", "blocks."),
        ("blocks.0:max", "cls, mean, last"),
        ("blocks.0:last", "mean or cls"),
        ("fc_norm.nothing", "a layer"),
        ("head", "takes no part"),
    ],
)
def test_a_feature_that_is_not_there_names_those_that_are(name: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        ask("timm:test_vit", untrained=True, feature=name)
    assert says in str(caught.value)


def test_timm_has_no_text_tower() -> None:
    with pytest.raises(UsageError, match="timm has no text"):
        ask("timm:test_vit", untrained=True, tower="text")


def test_feature_and_normalize_are_part_of_the_record_and_old_records_still_hold() -> None:
    base = ask("timm:test_resnet", untrained=True).spec
    body = base.to_json()
    # the fields of the first version, and no other: keys made then are keys now
    assert set(body) == {"family", "arch", "kwargs", "weights", "preprocessing", "feature", "dim", "untrained"}
    assert from_json(body) == base
    others: list[EncoderSpec] = [
        ask("timm:test_resnet", untrained=True, **more).spec
        for more in ({"normalize": True}, {"feature": "mean"}, {"feature": "layer3"})
    ]
    assert len({json.dumps(spec.to_json(), sort_keys=True) for spec in (base, *others)}) == 4
    assert all(from_json(spec.to_json()) == spec for spec in others)


def test_pooling_by_hand() -> None:
    out = torch.arange(12.0).view(1, 4, 3)
    mask = torch.tensor([[1, 1, 1, 0]])
    assert pooled(out, "mean", mask=mask).tolist() == [[3.0, 4.0, 5.0]]
    assert pooled(out, "last", mask=mask).tolist() == [[6.0, 7.0, 8.0]]
    assert pooled(out, "cls", mask=mask, cls=torch.tensor([1])).tolist() == [[3.0, 4.0, 5.0]]
    assert pooled(out, "", prefix=2).tolist() == [[7.5, 8.5, 9.5]]
    assert pooled(out.view(1, 3, 2, 2), "").tolist() == [[1.5, 5.5, 9.5]]
    assert pooled(out.view(1, 2, 2, 3), "", channels_last=True).tolist() == [[4.5, 5.5, 6.5]]
    with pytest.raises(UsageError, match="one vector"):
        pooled(out[:, 0], "mean")
    with pytest.raises(UsageError, match="class token"):
        pooled(out, "cls")
    with pytest.raises(UsageError, match="image's tokens"):
        pooled(out, "last")
    with pytest.raises(UsageError, match="map"):
        pooled(out.view(1, 3, 2, 2), "cls")
