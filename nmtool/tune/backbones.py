"""TURN's Table 8: how each of its six pre-trained backbones is fine-tuned, and which row an encoder is taken for.

An encoder is told by its architecture's name alone, never by its weights. Refuses nothing: an architecture that stands
in no column has the numbers that hold for four of the six.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

# In the order in which names are looked through: an MAE is a ViT, too.
_WORDS = (
    ("mae", "MAE"),
    ("msn", "MSN"),
    ("clip", "CLIP"),
    ("convnext", "ConvNeXt"),
    ("resnet", "ResNet-50"),
    ("resnext", "ResNet-50"),
    ("vit", "ViT"),
    ("deit", "ViT"),
)
# fmt: off
# Optimiser, learning rate, weight decay of full fine-tuning. The table's probe (SGD at 1e-2 and 1e-1, AdamW at 1e-2 and
# 1e-3) is not taken over: it was searched for under cross-entropy on features of a scale that the paper does not tell,
# and GCE's gradient starts at (1/C)^0.7 of that one's; ``defaults.py`` has the probe's numbers with our measurement.
TABLE_8: Mapping[str, Mapping[str, object]] = MappingProxyType({
    "ViT":       {"fft_optimizer": "sgd",   "fft_lr": 1e-2, "fft_weight_decay": 1e-5},
    "ConvNeXt":  {"fft_optimizer": "adamw", "fft_lr": 1e-4, "fft_weight_decay": 1e-4},
    "MAE":       {"fft_optimizer": "adamw", "fft_lr": 1e-4, "fft_weight_decay": 1e-3},
    "MSN":       {"fft_optimizer": "sgd",   "fft_lr": 1e-3, "fft_weight_decay": 1e-5},
    "CLIP":      {"fft_optimizer": "adamw", "fft_lr": 1e-5, "fft_weight_decay": 1e-5},
    "ResNet-50": {"fft_optimizer": "adamw", "fft_lr": 1e-3, "fft_weight_decay": 1e-5},
    # ours: ConvNeXt's, the most cautious convolutional column
    "":          {"fft_optimizer": "adamw", "fft_lr": 1e-4, "fft_weight_decay": 1e-4},
})
# fmt: on


def column_of(encoder: Mapping[str, Any]) -> str:
    """The column of Table 8 that an encoder's record belongs to; empty where it is none of the six.

    Args:
        encoder: ``EncoderSpec.to_json``; empty for features that came ready made.
    """
    if encoder.get("family") == "open_clip":
        return "CLIP"
    name = str(encoder.get("arch", "")).lower()
    return next((column for word, column in _WORDS if word in name), "")
