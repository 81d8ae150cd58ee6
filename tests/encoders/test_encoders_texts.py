"""Text encoders: agreement with the library's own path, padding without influence, cutting, refusals, keys."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from encoder_samples import CPU, SENTENCES, ask, column, encode, minilm, text_model, texts
from safetensors.torch import load_file, save_file

from nmtool.errors import DataError, InputMissingError, UnavailableError, UsageError

FAMILIES = ["bert", "roberta", "mpnet", "distilbert", "gpt2", "llama", "t5"]
TEXTS = [*SENTENCES, "a", "mat cat " * 20, "the dog sat on the cat"]


def alone(folder: Path, sample: tuple[str, ...], length: int) -> torch.Tensor:
    """Last hidden states of one sample by the library itself: no padding, no mask, nothing beside it."""
    tok = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    model = model.get_encoder() if model.config.is_encoder_decoder else model
    with torch.no_grad():
        ids = tok(*sample, return_tensors="pt", truncation=True, max_length=length)
        ids.pop("attention_mask")
        out: torch.Tensor = model(**ids).last_hidden_state[0]
    return out


def test_real_sentences_and_pairs_agree_with_the_library(real_data: Callable[[str], Path]) -> None:
    """256 sentences of SST-2 and 64 pairs of RTE through MiniLM, alone and in batches of several sizes."""
    folder, text = minilm(), real_data("text") / "text"
    sentences = column(text / "sst2" / "dev.tsv", "sentence")[:256]
    pairs = column(text / "rte" / "dev.tsv", "sentence1", "sentence2")[:64]
    tok = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    assert len(sentences) == 256
    for samples, sizes in ((sentences, (7, 256)), (pairs, (16,))):
        with torch.no_grad():
            hidden = [
                model(**tok(*sample, return_tensors="pt", truncation=True, max_length=256)).last_hidden_state[0]
                for sample in samples
            ]
        for feature, theirs in (
            ("mean", torch.stack([h.mean(0) for h in hidden])),
            ("cls", torch.stack([h[0] for h in hidden])),
            ("last", torch.stack([h[-1] for h in hidden])),
        ):
            encoder = texts(ask(f"transformers:{folder}", feature=feature))
            for size in sizes:
                assert (encode(encoder, samples, size) - theirs).abs().max() <= 1e-5


def test_sentence_transformers_models_pool_as_their_folder_says(real_data: Callable[[str], Path]) -> None:
    sentence_transformers = pytest.importorskip("sentence_transformers")
    samples = column(real_data("text") / "text" / "cola" / "train.tsv", "sentence")[:32]
    resolved = ask(f"transformers:{minilm()}", normalize=True)
    assert resolved.spec.feature == "mean"
    assert resolved.spec.preparation["max_length"] == 256
    theirs = sentence_transformers.SentenceTransformer(str(minilm()), device="cpu").encode([s for (s,) in samples])
    assert (encode(texts(resolved), samples, 32) - torch.from_numpy(theirs)).abs().max() <= 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_has_no_influence(tmp_path: Path, family: str) -> None:
    """Each text as if it were alone, whatever is beside it and however long: for every kind of position and mask."""
    folder = text_model(tmp_path, family)
    default = {"gpt2": "last", "llama": "last", "t5": "mean"}.get(family, "cls")
    assert ask(f"transformers:{folder}").spec.feature == default
    hidden = [alone(folder, (text,), 64) for text in TEXTS]
    theirs = {
        "mean": torch.stack([h.mean(0) for h in hidden]),
        "last": torch.stack([h[-1] for h in hidden]),
        "cls": torch.stack([h[0] for h in hidden]),
    }
    for feature in {"mean", "last", default}:
        encoder = texts(ask(f"transformers:{folder}", feature=feature))
        for size in (1, 3, len(TEXTS)):
            found = encode(encoder, [(text,) for text in TEXTS], size)
            assert (found - theirs[feature]).abs().max() <= 1e-5, (feature, size)
    assert theirs["mean"].std(0).max() > 1e-3


def test_a_tokenizer_that_pads_first_is_overruled(tmp_path: Path) -> None:
    folder = text_model(tmp_path, "gpt2")
    config = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"padding_side": "left"}))
    encoder = texts(ask(f"transformers:{folder}"))
    theirs = torch.stack([alone(folder, (text,), 64)[-1] for text in TEXTS])
    assert (encode(encoder, [(text,) for text in TEXTS], len(TEXTS)) - theirs).abs().max() <= 1e-5


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_layers_and_their_pooling(tmp_path: Path, family: str) -> None:
    folder = text_model(tmp_path, family)
    layer = "encoder.layer.0" if family == "bert" else "h.0"
    tok = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        states = [model(**tok(text, return_tensors="pt"), output_hidden_states=True).hidden_states[1] for text in TEXTS]
    for how, theirs in (("mean", [s[0].mean(0) for s in states]), ("last", [s[0, -1] for s in states])):
        resolved = ask(f"transformers:{folder}", feature=f"{layer}:{how}")
        found = encode(texts(resolved), [(text,) for text in TEXTS], 4)
        assert (found - torch.stack(theirs)).abs().max() <= 1e-5
    assert ask(f"transformers:{folder}", feature=layer).spec.feature == f"{layer}:mean"


def test_long_texts_are_cut_and_counted(tmp_path: Path) -> None:
    folder = text_model(tmp_path, "roberta")
    encoder = texts(ask(f"transformers:{folder}", max_length=8))
    samples: list[tuple[str, ...]] = [("a cat",), ("the dog sat on the mat " * 9,), ("so",)]
    tokens = encoder.tokenizer.tokens(samples)
    assert [t.cut for t in tokens] == [False, True, False]
    assert tokens[1].length == 8
    theirs = alone(folder, samples[1], 8)[0]
    assert (encode(encoder, samples, 3)[1] - theirs).abs().max() <= 1e-5
    # positions are counted from behind the padding's number: 67 of them hold 64 tokens
    assert ask(f"transformers:{folder}").spec.preparation["max_length"] == 64
    with pytest.raises(UsageError, match="at most 64"):
        ask(f"transformers:{folder}", max_length=65)


def test_a_text_without_tokens_has_none(tmp_path: Path) -> None:
    tokens = texts(ask(f"transformers:{text_model(tmp_path, 'gpt2')}")).tokenizer.tokens([("",), ("a",)])
    assert [bool(t.length) for t in tokens] == [False, True]


def test_what_decides_the_features_is_in_the_key(tmp_path: Path) -> None:
    folder = text_model(tmp_path / "a", "bert")
    base = ask(f"transformers:{folder}").spec
    moved = tmp_path / "b" / "elsewhere"
    shutil.copytree(folder, moved)
    (moved / "README.md").write_text("no part of it")
    assert ask(f"transformers:{moved}").spec == base
    state = load_file(moved / "model.safetensors")
    name = next(iter(state))
    state[name].view(-1).view(torch.int32)[0] ^= 1
    save_file(state, moved / "model.safetensors", metadata={"format": "pt"})
    assert ask(f"transformers:{moved}").spec.weights != base.weights
    for file in ("config.json", "tokenizer_config.json", "tokenizer.json"):
        other = tmp_path / file
        shutil.copytree(folder, other)
        (other / file).write_text((other / file).read_text() + " ")
        assert ask(f"transformers:{other}").spec.files != base.files
    asked: list[dict[str, Any]] = [{}, {"feature": "mean"}, {"normalize": True}, {"max_length": 7}]
    assert len({json.dumps(ask(f"transformers:{folder}", **more).spec.to_json()) for more in asked}) == 4


def test_changed_files_are_noticed(tmp_path: Path) -> None:
    resolved = ask(f"transformers:{text_model(tmp_path, 'bert')}")
    with (tmp_path / "tokenizer.json").open("a") as stream:
        stream.write(" ")
    with pytest.raises(DataError, match=r"tokenizer\.json has other bytes"):
        texts(resolved)


def test_weights_must_be_whole_and_safe(tmp_path: Path) -> None:
    folder = text_model(tmp_path, "bert")
    weights = folder / "model.safetensors"
    full = load_file(weights)
    # a pooler that nobody trained is common: only what reads it is refused
    save_file({k: v for k, v in full.items() if "pooler" not in k}, weights, metadata={"format": "pt"})
    assert texts(ask(f"transformers:{folder}")).spec.feature == "cls"
    with pytest.raises(DataError, match=r"unset \(pooler"):
        texts(ask(f"transformers:{folder}", feature="pre_logits"))
    save_file({k: v for k, v in full.items() if "layer.1." not in k}, weights, metadata={"format": "pt"})
    with pytest.raises(DataError, match="parameters unset"):
        texts(ask(f"transformers:{folder}"))
    weights.write_bytes(b"\x80\x02}q\x00.")
    with pytest.raises(DataError, match="do not load"):
        texts(ask(f"transformers:{folder}"))
    weights.unlink()
    with pytest.raises(InputMissingError, match="safetensors"):
        ask(f"transformers:{folder}")


def test_a_pickled_model_is_read_under_the_same_rules(tmp_path: Path) -> None:
    """As older repositories have it: another head on top, its names prefixed; and one that is a trap."""
    folder = text_model(tmp_path / "model", "bert")
    wanted = encode(texts(ask(f"transformers:{folder}")), [("a cat",), ("the dog sat",)], 2)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    headed = {f"bert.{name}": tensor for name, tensor in state.items()} | {"cls.predictions.bias": torch.zeros(320)}
    torch.save(headed, folder / "pytorch_model.bin")
    resolved = ask(f"transformers:{folder}")
    assert list(resolved.weights) == ["pytorch_model.bin"]
    assert torch.equal(encode(texts(resolved), [("a cat",), ("the dog sat",)], 2), wanted)
    trap = tmp_path / "sentinel"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(trap), "w"))

    torch.save(headed | {"x": Trap()}, folder / "pytorch_model.bin")
    with pytest.raises(DataError, match="more than tensors"):
        texts(ask(f"transformers:{folder}"))
    assert not trap.exists()


def test_code_that_a_model_brings_is_never_run(tmp_path: Path) -> None:
    folder = text_model(tmp_path, "bert")
    trap = tmp_path / "sentinel"
    (folder / "modeling_trap.py").write_text(f"open({str(trap)!r}, 'w')\nclass Trap: pass\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {
        "model_type": "trap",
        "auto_map": {"AutoConfig": "modeling_trap.Trap", "AutoModel": "modeling_trap.Trap"},
    }
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match="without further code"):
        ask(f"transformers:{folder}")
    assert not trap.exists()


def test_untrained_models_are_seeded(tmp_path: Path) -> None:
    folder = text_model(tmp_path, "bert")
    before = torch.get_rng_state()
    one, again, two = (
        encode(texts(ask(f"transformers:{folder}", untrained=True, seed=seed)), [("a cat",)], 1) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, again)
    assert not torch.equal(one, two)
    assert ask(f"transformers:{folder}", untrained=True, seed=1).spec.weights.startswith("untrained:1:transformers-")


def test_refusals(tmp_path: Path) -> None:
    folder = text_model(tmp_path / "gpt2", "gpt2")
    with pytest.raises(UsageError, match="mean, last"):
        ask(f"transformers:{folder}", feature="cls")
    with pytest.raises(UsageError, match=r"h\.1"):
        ask(f"transformers:{folder}", feature="h.7")
    with pytest.raises(UsageError, match="its text tower"):
        ask(f"transformers:{folder}", tower="image")
    with pytest.raises(UsageError, match="transformers:"):
        ask(folder)
    with pytest.raises(UsageError, match="none"):
        ask(f"transformers:{folder}", overrides={"size": 32})
    with pytest.raises(InputMissingError, match="does not exist"):
        ask("transformers:./nowhere")
    with pytest.raises(UnavailableError, match="models--bert-base-uncased/snapshots") as caught:
        ask("transformers:bert-base-uncased")
    assert caught.value.exit_code == 69
    pairs = texts(ask(f"transformers:{folder}")).tokenizer
    with pytest.raises(DataError, match="one kind"):
        pairs.tokens([("a",), ("a", "b")])
    assert pairs.batch(pairs.tokens([("a", "b")]), CPU).mask.sum() > 1


def test_half_precision_is_computed_in_float32(tmp_path: Path) -> None:
    folder = text_model(tmp_path, "bert")
    model = transformers.AutoModel.from_pretrained(folder).half()
    model.save_pretrained(folder)
    tok = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        wanted = model.float().eval()(**tok("a cat sat", return_tensors="pt")).last_hidden_state[:, 0]
    encoder = texts(ask(f"transformers:{folder}"))
    assert all(p.dtype == torch.float32 for p in encoder.module.parameters())
    assert (encode(encoder, [("a cat sat",)], 1) - wanted).abs().max() <= 1e-6


def test_the_hub_cache_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    root = tmp_path / "models--bert-base-uncased"
    snapshot = root / "snapshots" / "0123456789"
    snapshot.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0123456789")
    folder = text_model(snapshot, "bert")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    hub, local = ask("transformers:bert-base-uncased"), ask(f"transformers:{folder}")
    assert (hub.spec.arch, local.spec.arch) == ("bert-base-uncased", "BertModel-L2-H32")
    assert (hub.spec.weights, hub.spec.files) == (local.spec.weights, local.spec.files)
    assert torch.equal(encode(texts(hub), [("a cat",)], 1), encode(texts(local), [("a cat",)], 1))
    # a snapshot that lacks its weights is no whole one
    (folder / "model.safetensors").unlink()
    with pytest.raises(UnavailableError, match="models--bert-base-uncased"):
        ask("transformers:bert-base-uncased")


def test_what_the_memo_knows_needs_no_torch(tmp_path: Path) -> None:
    folder = text_model(tmp_path / "model", "bert")
    code = f"""
import sys
from pathlib import Path
from nmtool.artifact.memo import Memo
from nmtool.encoders.resolve import resolve
resolve("transformers:{folder}", arch=None, kwargs={{}}, untrained=False, seed=0, overrides={{}},
        memo=Memo(Path({str(tmp_path / "memo")!r})))
print(sorted({{"torch", "transformers", "open_clip"}} & sys.modules.keys()))
"""
    seen = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert "transformers" in seen[0].stdout
    assert seen[1].stdout.strip() == "[]"
