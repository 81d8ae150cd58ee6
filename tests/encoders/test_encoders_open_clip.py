"""open_clip's towers: agreement with its own path on real samples, its names, where weights come from, refusals."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from encoder_samples import TINY_CLIP, ask, encode, images, texts, tokenizer
from open_clip import pretrained, transform
from PIL import Image
from safetensors.torch import save_file

from nmtool.data.images import decode
from nmtool.encoders.timm import Pixels
from nmtool.errors import DataError, NmtoolError, UnavailableError, UsageError


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small CLIP's weights, as safetensors and as ``torch.save`` writes them."""
    folder = tmp_path_factory.mktemp("clip")
    rng = torch.random.get_rng_state()
    torch.default_generator.manual_seed(5)
    state = open_clip.create_model("ViT-B-32", **TINY_CLIP).state_dict()
    torch.random.set_rng_state(rng)
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / "clip.safetensors")
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}, folder / "clip.pt")
    return folder


def theirs(weights: Path) -> tuple[Any, Any]:
    model, _, prepare = open_clip.create_model_and_transforms(
        "ViT-B-32", pretrained=str(weights / "clip.safetensors"), **TINY_CLIP
    )
    return model.eval(), prepare


def ours(weights: Path, file: str = "clip.safetensors", **more: Any) -> Any:
    return ask(weights / file, arch="open_clip:ViT-B-32", kwargs=TINY_CLIP, **more)


def test_real_images_agree_with_open_clip(real_data: Callable[[str], Path], weights: Path) -> None:
    every = sorted((real_data("pacs") / "pacs").glob("*/train/*/*.jpg"))[::7][:256]
    assert len(every) == 256
    model, prepare = theirs(weights)
    with torch.no_grad():
        wanted = model.encode_image(torch.stack([prepare(Image.open(path)) for path in every]))
    encoder = images(ours(weights))
    batch = torch.stack([encoder.prepare(decode(path.read_bytes(), name=path.name)) for path in every])
    found = encoder.features(batch)
    assert (found - wanted).abs().max() <= 1e-5
    assert wanted.std(0).max() > 1e-3
    half = images(ours(weights, normalize=True)).features(batch)
    assert (half - torch.nn.functional.normalize(wanted, dim=-1)).abs().max() <= 1e-5


def test_real_captions_agree_with_open_clip(real_data: Callable[[str], Path], weights: Path) -> None:
    with (real_data("flickr8k") / "flickr8k" / "captions.tsv").open(newline="") as stream:
        captions = [row["caption"] for row in csv.DictReader(stream, delimiter="\t")][:255]
    captions.append("a very long caption " * 40)
    model, _ = theirs(weights)
    with torch.no_grad():
        wanted = model.encode_text(open_clip.get_tokenizer("ViT-B-32")(captions))
    encoder = texts(ours(weights, tower="text"))
    for size in (256, 37):
        assert (encode(encoder, [(caption,) for caption in captions], size) - wanted).abs().max() <= 1e-5
    tokens = encoder.tokenizer.tokens([(caption,) for caption in captions])
    assert [t.cut for t in tokens] == [False] * 255 + [True]
    with pytest.raises(DataError, match="pairs"):
        encoder.tokenizer.tokens([("a", "b")])


def test_a_pickled_checkpoint_gives_the_same(weights: Path) -> None:
    batch = torch.rand(2, 3, 32, 32)
    one, two = (images(ours(weights, file)) for file in ("clip.safetensors", "clip.pt"))
    assert torch.equal(one.features(batch), two.features(batch))
    assert one.spec.weights != two.spec.weights


def test_features_are_what_their_names_say(weights: Path) -> None:
    """Before and after the projection, the class token and the patches, by open_clip's own parts."""
    model, _ = theirs(weights)
    visual, batch = model.visual, torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        last = visual.ln_post(visual.transformer(visual._embeds(batch)))
        first = visual.transformer.resblocks[0](visual._embeds(batch))
        states = model.ln_final(
            model.transformer(
                model.token_embedding(ids := open_clip.tokenize(["a cat", "two dogs on a mat", "so"]))
                + model.positional_embedding,
                attn_mask=model.attn_mask,
            )
        )
    wanted = {
        "cls": last[:, 0],
        "pre_logits": last[:, 0],
        "mean": last[:, 1:].mean(1),
        "projected": last[:, 0] @ visual.proj,
        "transformer.resblocks.0": first[:, 1:].mean(1),
        "transformer.resblocks.0:cls": first[:, 0],
    }
    for feature, out in wanted.items():
        resolved = ours(weights, feature=feature)
        assert resolved.spec.dim == out.shape[1]
        assert (images(resolved).features(batch) - out).abs().max() <= 1e-5, feature
    ends = ids.argmax(-1)
    encoder = texts(ours(weights, tower="text", feature="pre_logits"))
    found = encode(encoder, [("a cat",), ("two dogs on a mat",), ("so",)], 3)
    assert (found - states[torch.arange(3), ends]).abs().max() <= 1e-5
    # a word's mean leaves out the padding, which is a token like others to CLIP
    encoder = texts(ours(weights, tower="text", feature="ln_final"))
    found = encode(encoder, [("a cat",), ("two dogs on a mat",), ("so",)], 3)
    means = torch.stack([states[k, : int(end) + 1].mean(0) for k, end in enumerate(ends)])
    assert (found - means).abs().max() <= 1e-5


@pytest.mark.parametrize(
    "name", ["ViT-B-32/laion2b_s34b_b79k", "ViT-B-16-SigLIP/webli", "convnext_base_w/laion2b_s13b_b82k"]
)
@pytest.mark.parametrize("shape", [(90, 37), (300, 411), (1, 9)])
def test_preprocessing_is_that_of_the_pretrained_tag(name: str, shape: tuple[int, int]) -> None:
    arch, _, tag = name.partition("/")
    spec = ask(f"open_clip:{name}", untrained=True).spec
    assert spec.preprocessing is not None
    cfg = transform.merge_preprocess_dict(asdict(transform.PreprocessCfg()), pretrained.get_pretrained_cfg(arch, tag))
    cfg["size"] = spec.preprocessing.size
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    wanted = transform.image_transform_v2(transform.PreprocessCfg(**cfg), is_train=False)(Image.fromarray(image))
    pixels = Pixels(spec.preprocessing)
    assert torch.equal(pixels.normalise(pixels.crop(image)), wanted)


@pytest.mark.parametrize("file", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_the_hub_cache_is_used(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    import huggingface_hub

    root = tmp_path / "models--laion--CLIP-ViT-B-32-laion2B-s34B-b79K"
    snapshot = root / "snapshots" / "0123456789"
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0123456789")
    source = weights / ("clip.safetensors" if file.endswith("safetensors") else "clip.pt")
    (snapshot / file).write_bytes(source.read_bytes())
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    hub = ask("open_clip:ViT-B-32/laion2b_s34b_b79k", kwargs=TINY_CLIP)
    local = ours(weights, source.name)
    assert hub.spec.weights == local.spec.weights
    batch = torch.rand(2, 3, 32, 32)
    assert torch.equal(images(hub).features(batch), images(local).features(batch))


def test_a_tokenizer_from_the_hub_is_digested_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SigLIP's lies on the hub: found in the cache, read by open_clip's own wrapper; another one is another key."""
    import huggingface_hub

    root = tmp_path / "models--timm--ViT-B-16-SigLIP"
    snapshot = root / "snapshots" / "0123456789"
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0123456789")
    tokenizer(snapshot, {"pad_token": "<pad>", "eos_token": "</s>"}, last="</s>")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    text = {"context_length": 64, "vocab_size": 320, "width": 64, "heads": 2, "layers": 2, "no_causal_mask": True}
    small = {"kwargs": TINY_CLIP | {"text_cfg": text | {"pool_type": "last"}}, "untrained": True, "tower": "text"}
    resolved = ask("open_clip:ViT-B-16-SigLIP", **small)
    assert resolved.spec.preparation == {"tokenizer": "timm/ViT-B-16-SigLIP", "max_length": 64}
    assert "tokenizer.json" in resolved.spec.files
    encoder = texts(resolved)
    samples = ["A cat sat, on the MAT!", "so", "the dog " * 60]
    config = open_clip.get_model_config("ViT-B-16-SigLIP")["text_cfg"]
    theirs = open_clip.tokenizer.HFTokenizer(str(snapshot), context_length=64, **config.get("tokenizer_kwargs", {}))(
        samples
    )
    tokens = encoder.tokenizer.tokens([(sample,) for sample in samples])
    assert [list(t.fields["input_ids"]) for t in tokens] == theirs.tolist()
    assert [t.cut for t in tokens] == [False, False, True]
    with torch.no_grad():
        wanted = encoder.module.encode_text(theirs)
    assert (encode(encoder, [(sample,) for sample in samples], 2) - wanted).abs().max() <= 1e-5
    (snapshot / "tokenizer_config.json").write_text((snapshot / "tokenizer_config.json").read_text() + " ")
    assert ask("open_clip:ViT-B-16-SigLIP", **small).spec.files != resolved.spec.files


@pytest.mark.parametrize(
    ("model", "more", "error", "says"),
    [
        ("open_clip:ViT-B-32/laion2b_s34b_b79k", {}, UnavailableError, "open_clip_model.safetensors"),
        ("open_clip:ViT-B-32", {}, UsageError, "laion2b_s34b_b79k"),
        ("open_clip:ViT-B-33", {"untrained": True}, UsageError, "ViT-B-32"),
        ("open_clip:ViT-B-32/nope", {}, UsageError, "laion2b_s34b_b79k"),
        ("open_clip:ViT-B-32/openai", {}, UsageError, "ViT-B-32-quickgelu/openai"),
        ("open_clip:hf-hub:org/name", {}, UsageError, "--arch open_clip:ARCH"),
        ("open_clip:ViT-B-32", {"untrained": True, "feature": "last"}, UsageError, "projected, pre_logits, mean, cls"),
        ("open_clip:RN50", {"untrained": True, "feature": "cls"}, UsageError, "projected"),
        ("open_clip:ViT-B-32", {"untrained": True, "kwargs": {"cache_dir": "/x"}}, UsageError, "cache_dir"),
        ("open_clip:ViT-B-32", {"untrained": True, "kwargs": {"nonsense": 1}}, UsageError, "nonsense"),
        ("open_clip:ViT-B-32", {"untrained": True, "max_length": 5}, UsageError, "context length"),
        ("open_clip:ViT-B-16-SigLIP", {"untrained": True, "tower": "text"}, UnavailableError, "tokenizer"),
        ("open_clip:ViT-B-32", {"untrained": True, "tower": "text", "overrides": {"size": 64}}, UsageError, "images"),
    ],
)
def test_refusals(model: str, more: dict[str, Any], error: type[NmtoolError], says: str) -> None:
    with pytest.raises(error) as caught:
        ask(model, **more)
    assert says in str(caught.value)


def test_misfits_are_named(weights: Path, tmp_path: Path) -> None:
    save_file({"visual.proj": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(DataError, match="do not fit"):
        images(ask(tmp_path / "w.safetensors", arch="open_clip:ViT-B-32", kwargs=TINY_CLIP))
    with pytest.raises(UsageError, match="timm:, open_clip:"):
        ask(weights / "clip.pt", arch="transformers:bert")


def test_untrained_is_seeded_and_another_size_is_taken() -> None:
    before = torch.get_rng_state()
    small = {"kwargs": TINY_CLIP, "untrained": True}
    batch = torch.rand(2, 3, 32, 32)
    one, again, two = (images(ask("open_clip:ViT-B-32", seed=seed, **small)).features(batch) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, two)
    torch.set_rng_state(before)
    spec = ask("open_clip:ViT-S-32", untrained=True, overrides={"size": 64, "mean": (0.5,)}).spec
    assert spec.preprocessing is not None
    assert (spec.preprocessing.size, spec.preprocessing.mean) == ((64, 64), (0.5, 0.5, 0.5))
    with pytest.raises(UsageError, match="--image-size"):
        ask("open_clip:ViT-B-32", **small, overrides={"size": 64})
