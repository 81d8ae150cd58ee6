"""The numbers that are used where none is asked for: one place, each with its source.

``paper`` is what the papers print, ``released`` what the authors' code runs where it differs (NMTune only: no official
TURN code exists). What no paper says is marked *ours*, with the measurement behind it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

from nmtool.tune.backbones import TABLE_8

# fmt: off
# The same for all methods that have them, under both presets.
BATCH_SIZE = 64        # authors' README (NMTune); no paper says
SCHEDULE = "cosine"    # NMTune A.2 and B.1, vision
TEXT_EPOCHS = 10       # NMTune A.2 and B.2, language, preset paper (no language code was released)
TEXT_SCHEDULE = "linear"  # as above
Q = 0.7                # TURN B.2, after Zhang & Sabuncu 2018
WIDTH = 4              # authors' src/models/modeling.py: Linear(D, 4D); Fig. 17's text is lost
LAYERS = 2             # NMTune section 3.2: "use 2 layers MLP for all our experiments"
ACTIVATION = "relu"    # NMTune Fig. 17
TAU = 0.6              # TURN 5.1
PROBE_LOSS = "gce"     # TURN 4.1.1
CLEANSE = "each"       # TURN 4.1.2: every epoch of fine-tuning
ELR_BETA = 0.9         # ELR's released config for CIFAR-100 (TURN: "original hyper-parameters"); CIFAR-10: 0.7
ELR_LAMBDA = 7.0       # as above; CIFAR-10: 3
WARMUP = 0.25          # ours: 5 of 20 epochs; the published 10 or 30 of 300 don't fit (published-code 3.5)
RAMP = 0.25            # ours: a quarter of the epochs after the warm-up; published 16 of 270 or 290
P_THRESHOLD = 0.5      # DivideMix's released code; its authors use 0.6 at 90 % (their issue 10)
SHARPEN = 0.5          # DivideMix (Li et al. 2020) 4.2, T; UNICON's code
MIXUP = 4.0            # as above, alpha
FFT_LOSS = "ce"        # ours: the paper does not say
LORA_RANK = 8          # authors' nml_finetune.py (published-code 1.6)
LORA_ALPHA = 8         # as above: peft's own
LORA_TARGETS = "auto"  # as above: linear layers of the MLPs; ours for networks that have none: their convolutions
K = 20                 # DINO (Caron et al. 2021), section 3.2: best for most of their runs
KNN_WEIGHTS = "distance"  # as above, after Wu et al. 2018: a vote weighs exp(cosine / temperature)
TEMPERATURE = 0.07     # as above
TEMPLATE = "a photo of a {}."  # CLIP (Radford et al. 2021), 3.1.4: "a good default"
C = 1.0                # scikit-learn's LogisticRegression
MAX_ITER = 1000        # CLIP (Radford et al. 2021), A.3: "a maximum of 1,000 iterations"
SEARCH_HOLDOUT = 0.2   # ours: five folds' first
AUGMENT = "none"       # ours: the paper names augmentation for its rivals alone

# Under GCE, by our own measurement: last-epoch accuracy at 60 % symmetric noise / at none.
#                            CIFAR-100 (6,000 rows)   PACS photo (896 rows)    digits' pixels (500 rows)
#                            MobileNetV2, D = 1,280   MobileNetV2, D = 1,280   D = 64
#   raw, CE,  lr 0.1         .154 / .496              .330 / .929              .475 / .877
#   raw, GCE, lr 0.1         .010 / .010 (one class)  .277 / .143              .718 / .881
#   raw, GCE, best lr        .373 / .494 (3e-4)       .616 / .857 (3e-4)       .740 / .866 (0.03)
#   unit rows, CE, best lr   .393 / .539 (1e-2)       .812 / .888 (3e-3)       .689 / .827 (0.03)
#   unit rows, GCE, lr 1e-2  .445 / .519              .821 / .893              .463 / .710
#   unit rows, GCE, lr 0.1   .246 / .450              .558 / .929              .746 / .860
# GCE's gradient starts at (1/C)^0.7 of CE's and vanishes where the head is sure and wrong: on raw features a large step
# leaves classes that are never predicted again. On unit rows AdamW's step moves a logit by at most lr * sqrt(D), so
# that is what is held constant: 0.36 is 1e-2 at D = 1,280, and 0.045 at D = 64.
_STEP = 0.36
PROBE_SCALE = "l2"  # of the probe before --cleanse: ours, as below
_GCE: Mapping[str, object] = {
    "weight_decay": 1e-5,  # TURN Table 8, the AdamW probes of MAE and ResNet-50
    "scale": "l2",         # ours, see above
}
_LP_PAPER: Mapping[str, object] = {
    "epochs": 30,          # NMTune A.2: 30 epochs
    "lr": 0.1,             # NMTune A.2: "set the learning rate to 0.1 for all tasks"
    "weight_decay": 0.0,   # NMTune A.2: "we do not use weight decay for linear probing"
    "scale": "none",       # NMTune: features as they are; the authors' code scales nowhere
}
_MLP_PAPER: Mapping[str, object] = {
    "epochs": 30,          # NMTune B.1
    "lr": 1e-3,            # NMTune B.1: 0.001 for MLP tuning and NMTune
    "weight_decay": 1e-4,  # NMTune B.1
    "scale": "none",       # as above
    "batch_norm": False,   # NMTune Fig. 17 and section 3.1: two layers and a ReLU
    "residual": False,     # as above
}
_NMTUNE_PAPER: Mapping[str, object] = {
    **_MLP_PAPER,
    "weight_mse": 0.01,    # NMTune Eq. 6: lambda = 0.01 on each term
    "weight_cov": 0.01,    # as above
    "weight_svd": 0.01,    # as above
    "svd_topk": 1,         # NMTune Eq. 5 and section C.2: "K = 1"
    "mse_reduce": "row",   # NMTune Eq. 3 is a squared norm; under ``elem`` a weight of 0.01 does nothing
}
_TURN_PAPER: Mapping[str, object] = {
    "probe_epochs": 20,          # TURN 5.1
    "fft_epochs": 4,             # TURN 5.1; optimiser, rate and decay: ``backbones.TABLE_8``
    "fft_batch_size": 128,       # TURN Table 8
        "probe_weight_decay": _GCE["weight_decay"],
    "scale": _GCE["scale"],      # ours; also under --probe-loss ce it holds better than raw features
}
_FFT_PAPER: Mapping[str, object] = {
    "fft_epochs": 5,             # TURN 5.1, its baselines; optimiser, rate and decay: ``backbones.TABLE_8``
    "fft_batch_size": 128,       # TURN Table 8
    "fft_schedule": "constant",  # ours: TURN names none
    "scale": "none",             # ours: the head's input is the encoder's output
    "weight_cov": 0.0,           # TURN's baselines have no such terms
    "weight_svd": 0.0,           # as above
    "svd_topk": 1,               # NMTune Eq. 5
}
_LORA_PAPER: Mapping[str, object] = {
    **_FFT_PAPER,
    "fft_schedule": "cosine",    # authors' nml_finetune.py (published-code 1.6); the papers have no LoRA
    "fft_optimizer": "adamw",    # as above
    "fft_lr": 1e-3,              # as above: argparse default
    "fft_weight_decay": 1e-4,    # ours: NMTune B.1; argparse's 0.1 is that of a whole network
}
# The journal's NMTune on the encoder's output, as authors' nml_finetune.py has it (published-code 1.6): no MSE term.
_JOURNAL: Mapping[str, object] = {"fft_schedule": "cosine", "weight_cov": 0.04, "weight_svd": 0.001, "svd_topk": 5}
_LP_RELEASED: Mapping[str, object] = {
    **_LP_PAPER,
    "lr": 0.01,            # authors' README, LP
    "weight_decay": 1e-4,  # as above
}
_MLP_RELEASED: Mapping[str, object] = {
    **_MLP_PAPER,
    "batch_norm": True,    # authors' src/models/modeling.py
    "residual": True,      # authors' README
}
_NMTUNE_RELEASED: Mapping[str, object] = {
    **_NMTUNE_PAPER,
    **_MLP_RELEASED,
    "weight_mse": 1.0,     # authors' argparse defaults and README
    "weight_cov": 0.04,    # as above
    "weight_svd": 0.001,   # as above
    "svd_topk": 5,         # authors' src/models/nml_tune.py: mean of the five largest
    "mse_reduce": "elem",  # as above: nn.MSELoss
}
# ELR by linear probe, DivideMix and UNICON on frozen features. TURN's settings for them are not published
# (published-code 3.5): epochs as TURN's probes, rate, decay and scale as our GCE probe's. Last-epoch accuracy, measured
# (one seed, D = 1,280; PACS photo: 896 rows, symmetric 60 %; CIFAR-10: 6,000 rows, human "worse" labels):
#   unit rows, lr      PACS: 1e-3  3e-3  1e-2  3e-2  0.1   raw, best lr   SGD 0.02, raw    CIFAR-10: 3e-3  1e-2  3e-2
#   ELR (0.9, 7)             .862  .893  .893  .857  .732  .705 (1e-3)    -                          .660  .718  .737
#   DivideMix                .540  .812  .897  .871  .826  .804 (1e-3)    .518                       .707  .713  .719
#   UNICON                   .902  .902  .902  .879  .848  .812 (1e-3)    .549                       .655  .698  .716
#   CE / GCE probe           -     .857 / .902  .795 / .871 (1e-2)                                   .722 / .734 (1e-2)
# CIFAR-100, 4,000 rows, symmetric 60 %, lr 1e-2, two seeds: CE .348, GCE .380, ELR .355, UNICON .354, DivideMix .301
# (an epoch is one pass over its 1,050 labelled rows; at 3e-2 .344).
# ELR's 0.7 and 3 for CIFAR-10 give .709 there over three seeds, no better: 0.9 and 7 stand for all.
_RIVAL: Mapping[str, object] = {
    "epochs": 20,                        # TURN 5.1: 20 epochs of linear probing for all
    "weight_decay": _GCE["weight_decay"],
    "scale": _GCE["scale"],
    "optimizer": "adamw",                # as all our probes
}
# Under --preset released: the optimiser of the authors' training scripts, on features as they are; their decay of the
# rate (a tenth at half time; cosine to 2e-4) is --schedule's here.
_SGD: Mapping[str, Mapping[str, object]] = {
    name: {
        "lr": 0.02,           # DivideMix, UNICON: SGD, momentum 0.9
        "weight_decay": 5e-4,  # as above
        "scale": "none",      # images there; no scaling
        "optimizer": "sgd",
    }
    for name in ("dividemix", "unicon")
}
_RIVALS = ("elr", "dividemix", "unicon")
# By type of noise where --lambda-u is not given: (asymmetric, symmetric of 80 % and more, else).
LAMBDA_U: Mapping[str, tuple[float, float, float]] = {
    # 0: the author, issues 15 and 26; 150: his issue 10, for CIFAR-100 at 90 %, and scripts of others at 80 %; 25: the
    # released code's default
    "dividemix": (0.0, 150.0, 25.0),
    # the released code's default, for all
    "unicon": (30.0, 30.0, 30.0),
}
# What --search tries where no list is given.
_GRIDS: Mapping[str, tuple[float, ...]] = {
    # DINOv2 (Oquab et al. 2023), its linear evaluation's 13 rates. Both papers' rates for a probe are among them, and
    # the best of our own measurements above.
    "lp lr": (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1),
    # ours: none (NMTune), the released 1e-4, and what is seen on either side of it; AdamW's own default is the largest
    "lp weight_decay": (0.0, 1e-5, 1e-4, 1e-2),
    # ours: a decade to either side of the paper's 1e-3: such a head costs some hundred times a probe's
    "mlp lr": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2),
    "mlp weight_decay": (0.0, 1e-4, 1e-2),
    # ours: nine of the decades that CLIP (A.3) looks through, 1e-6 to 1e6; beyond 1e3 L-BFGS hardly converges
    "lp C": (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0, 1000.0),
}
# fmt: on

_METHODS: Mapping[str, Mapping[str, Mapping[str, object]]] = MappingProxyType(
    {
        "paper": {"lp": _LP_PAPER, "mlp": _MLP_PAPER, "nmtune": _NMTUNE_PAPER, "turn": _TURN_PAPER}
        | {"fft": _FFT_PAPER, "lora": _LORA_PAPER},
        "released": {"lp": _LP_RELEASED, "mlp": _MLP_RELEASED, "nmtune": _NMTUNE_RELEASED, "turn": _TURN_PAPER}
        | {"fft": {**_FFT_PAPER, **_JOURNAL}, "lora": {**_LORA_PAPER, **_JOURNAL}},
    }
)


def robust_lr(dim: int) -> float:
    """Learning rate of a linear probe under GCE on rows of unit length: 0.36 / sqrt(``dim``), to two digits.

    TURN's Table 8 has one for each backbone instead, from 1e-1 to 1e-3.
    """
    return float(f"{_STEP / math.sqrt(dim):.2g}")


def default(
    method: str, loss: str, preset: str, name: str, dim: int, column: str = "", low_rank: bool = False
) -> object:
    """The number for a setting left unset; KeyError where the method has no such setting.

    Args:
        method: its name.
        loss: ce, gce, elr or mse; no paper gives settings for NMTune's methods under gce or elr, so those are ours.
        preset: paper or released.
        name: the setting.
        dim: of the features.
        column: of TURN's Table 8 that the encoder belongs to, or empty.
        low_rank: turn trains adapters: their numbers are lora's.
    """
    if low_rank and name in TABLE_8[""]:
        return _LORA_PAPER[name]
    if method in ("turn", "fft") and name in TABLE_8[column]:
        return TABLE_8[column][name]
    if method == "turn" and name == "fft_schedule":
        return "constant"  # ours: the paper names none
    if method in ("fft", "lora"):
        return _METHODS[preset][method][name]
    if name == "probe_lr" or (method == "lp" and loss == "gce" and name == "lr"):
        return robust_lr(dim)
    if name == "cleanse":
        return CLEANSE if method == "turn" else "none"
    if name in ("probe_epochs", "probe_weight_decay"):
        return _TURN_PAPER[name]
    if method in _RIVALS or loss == "elr":
        found = _rival(method, preset, name, dim)
        if found is not None or name == "lambda_u":
            return found
    if method == "knn":
        return {"scale": "none"}[name]  # cosine: rows are scaled to unit length anyway
    if loss == "gce" and (name == "scale" or (method == "lp" and name in _GCE)):
        # Raw features collapse MLPs under GCE, too (PACS photo, 40 % noise, lr 1e-3: .143, chance; unit rows .759).
        return _GCE[name]
    if name == "C":
        return C
    if name == "schedule":
        return SCHEDULE
    if name == "loss":
        return loss
    return _METHODS[preset][method][name]


def _rival(method: str, preset: str, name: str, dim: int) -> object:
    """The number for an ELR head, ``dividemix`` or ``unicon``; None: that of the method's other losses."""
    if name == "lr" and method not in ("mlp", "nmtune") and not (method in _SGD and preset == "released"):
        return robust_lr(dim)
    if method in ("mlp", "nmtune"):
        return _GCE["scale"] if name == "scale" else None
    if method == "lp" and name == "epochs":
        return None
    if method in _SGD and preset == "released":
        return {**_RIVAL, **_SGD[method]}.get(name)
    return _RIVAL.get(name)


def grid(method: str, name: str) -> tuple[float, ...]:
    """The values of a setting that ``--search`` tries where no list is given."""
    return _GRIDS[f"{'mlp' if method in ('mlp', 'nmtune') else 'lp'} {name}"]
