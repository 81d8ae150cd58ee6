"""What can be asked of ``nmtool tune``. Numbers left unset come from ``defaults.py``, by method and preset."""

from __future__ import annotations

from dataclasses import dataclass

from nmtool.encoders.device import AMP
from nmtool.settings import setting
from nmtool.tune import defaults

PRESETS = ("paper", "released")
LOSSES = ("ce", "gce")
HEAD_LOSSES = (*LOSSES, "elr")
PENALTIES = ("auto", "yes", "no")
REAL_LOSS = "mse"
METRICS = ("accuracy", "macro_f1", "mean_per_class", "matthews", "pearson", "spearman")
SCALES = ("none", "l2", "standardize")
SCHEDULES = ("cosine", "linear", "constant")
ACTIVATIONS = ("relu", "gelu", "tanh", "none")
CLEANSE = ("none", "once", "each")
BATCH_NORM = ("frozen", "train")
AUGMENT = ("none", "weak")
OPTIMIZERS = ("adamw", "sgd")
TUNE_BACKBONE = ("full", "lora")
LORA_TARGETS = ("auto", "mlp", "attention", "all", "conv")
SOLVERS = ("adamw", "lbfgs")
KNN_WEIGHTS = ("distance", "uniform")

_BY = "; unset: by method and preset"


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings of ``nmtool tune``. A list is a product: every combination that a method can tell apart is one run."""

    features: str = setting(doc="features artifact to train on (FEATURES[:SPLIT])", key=False, operand=True)
    method: tuple[str, ...] = setting(("lp",), doc="methods, comma-separated (nmtool list methods)", key=True)
    loss: tuple[str, ...] | None = setting(
        None,
        doc="loss of lp, mlp, nmtune, fft and lora; unset: ce, or mse where labels are real numbers",
        key=True,
        choices=(*HEAD_LOSSES, REAL_LOSS),
    )
    train: str = setting("", doc="training split; unset: train", key=False)
    test: str = setting("", doc="in-domain evaluation split; unset: test, else val, validation", key=False)
    ood: tuple[str, ...] = setting(
        (),
        doc="out-of-domain features (FEATURES[:SPLIT]; without split: its test splits); repeatable",
        key=False,
        repeat=True,
    )
    labels: tuple[str, ...] = setting(
        (), doc="labels artifact for the training split; repeatable: each is one run", key=False, repeat=True
    )
    fraction: tuple[float, ...] = setting((1.0,), doc="stratified shares of the training split, in (0, 1]", key=True)
    nested_fractions: bool = setting(
        True, doc="smaller fractions of a seed lie inside larger ones; no: each is drawn for itself", key=True
    )
    seeds: tuple[int, ...] | None = setting(None, doc="seeds, one run each; unset: --seed", key=True)
    seed: int = setting(0, doc="seed where --seeds is not given", key=True)
    metric: str | None = setting(
        None,
        doc="the measure that counts in reports; unset: what the papers report on the suite, else accuracy (pearson)",
        key=True,
        choices=METRICS,
    )
    preset: str = setting("paper", doc="where unset numbers come from", key=True, choices=PRESETS)
    search: bool = setting(
        False,
        doc="find learning rate and decay (lbfgs: C) on held-out training rows; lists are its grid",
        key=True,
    )
    search_holdout: float = setting(
        defaults.SEARCH_HOLDOUT, doc="share of each class's training rows that a search holds out", key=True
    )
    epochs: tuple[int, ...] | None = setting(
        None, doc="epochs of training on features" + _BY + " (paper: 30, on features of texts 10)", key=True
    )
    batch_size: tuple[int, ...] = setting((defaults.BATCH_SIZE,), doc="rows a step, for training on features", key=True)
    lr: tuple[float, ...] | None = setting(None, doc="learning rate on features" + _BY, key=True)
    weight_decay: tuple[float, ...] | None = setting(None, doc="decoupled weight decay" + _BY, key=True)
    schedule: tuple[str, ...] | None = setting(
        None,
        doc="learning rate by step, ending at 0; unset: cosine, and for features of texts under preset paper linear",
        key=True,
        choices=SCHEDULES,
    )
    scale: tuple[str, ...] | None = setting(
        None, doc="scaling of features, learned on the training rows only" + _BY, key=True, choices=SCALES
    )
    q: tuple[float, ...] = setting((defaults.Q,), doc="power of the GCE loss, in (0, 1]", key=True)
    elr_beta: tuple[float, ...] = setting((defaults.ELR_BETA,), doc="elr: memory of the targets, in [0, 1)", key=True)
    elr_lambda: tuple[float, ...] = setting((defaults.ELR_LAMBDA,), doc="elr: weight of the regulariser", key=True)
    solver: tuple[str, ...] = setting(
        ("adamw",), doc="lp: AdamW, or logistic regression solved by L-BFGS (scikit-learn's)", key=True, choices=SOLVERS
    )
    C: tuple[float, ...] | None = setting(
        None, doc="lp by lbfgs: inverse of the L2 penalty, as scikit-learn's C; unset: 1", key=True
    )
    max_iter: int = setting(defaults.MAX_ITER, doc="lp by lbfgs: most iterations", key=True)
    k: tuple[int, ...] = setting((defaults.K,), doc="knn: number of neighbours", key=True)
    knn_weights: tuple[str, ...] = setting(
        (defaults.KNN_WEIGHTS,), doc="knn: votes weighed by similarity, or all alike", key=True, choices=KNN_WEIGHTS
    )
    template: tuple[str, ...] = setting(
        (defaults.TEMPLATE,),
        doc="zeroshot: prompt with {} for the class name, or a file of such lines; repeatable: prompts are averaged",
        key=True,
        repeat=True,
    )
    temperature: float = setting(
        defaults.TEMPERATURE, doc="knn: a vote weighs exp(cosine / temperature) under distance", key=True
    )
    weight_mse: tuple[float, ...] | None = setting(None, doc="nmtune: weight of the consistency term" + _BY, key=True)
    weight_cov: tuple[float, ...] | None = setting(
        None, doc="nmtune, fft, lora: weight of the covariance term" + _BY, key=True
    )
    weight_svd: tuple[float, ...] | None = setting(
        None, doc="nmtune, fft, lora: weight of the singular value term" + _BY, key=True
    )
    svd_topk: tuple[int, ...] | None = setting(
        None, doc="nmtune, fft, lora: singular values in that term" + _BY, key=True
    )
    mse_reduce: str | None = setting(
        None, doc="nmtune: sum over dimensions (row) or mean (elem)" + _BY, key=True, choices=("row", "elem")
    )
    width: tuple[int, ...] = setting(
        (defaults.WIDTH,), doc="mlp, nmtune: hidden width, in multiples of the feature dimension", key=True
    )
    layers: tuple[int, ...] = setting(
        (defaults.LAYERS,), doc="mlp, nmtune: linear layers of the transformation", key=True
    )
    activation: tuple[str, ...] = setting(
        (defaults.ACTIVATION,), doc="mlp, nmtune: between the layers", key=True, choices=ACTIVATIONS
    )
    batch_norm: bool | None = setting(
        None, doc="mlp, nmtune: batch normalisation before the activation" + _BY, key=True
    )
    residual: bool | None = setting(None, doc="mlp, nmtune: Z = s * MLP(F) + F, s learned" + _BY, key=True)
    use_views: bool = setting(
        False, doc="lp, mlp, nmtune: train on two augmented views of each row (extract --views)", key=True
    )
    warmup: tuple[float, ...] = setting(
        (defaults.WARMUP,), doc="dividemix, unicon: share of the epochs that is warm-up", key=True
    )
    ramp: tuple[float, ...] = setting(
        (defaults.RAMP,), doc="dividemix, unicon: share of the others over which --lambda-u sets in", key=True
    )
    p_threshold: tuple[float, ...] = setting(
        (defaults.P_THRESHOLD,), doc="dividemix: posterior above which a sample counts as labelled", key=True
    )
    lambda_u: tuple[float, ...] | None = setting(
        None, doc="dividemix, unicon: weight of the unlabelled loss; unset: by method and type of noise", key=True
    )
    sharpen: tuple[float, ...] = setting(
        (defaults.SHARPEN,), doc="dividemix, unicon: temperature of refined and guessed labels", key=True
    )
    mixup: tuple[float, ...] = setting(
        (defaults.MIXUP,), doc="dividemix, unicon: alpha of mixup's Beta distribution", key=True
    )
    warmup_penalty: tuple[str, ...] = setting(
        ("auto",),
        doc="dividemix, unicon: negative entropy in the warm-up; auto: under asymmetric noise",
        key=True,
        choices=PENALTIES,
    )
    optimizer: tuple[str, ...] | None = setting(
        None, doc="dividemix, unicon: optimiser" + _BY, key=True, choices=OPTIMIZERS
    )
    probe_epochs: tuple[int, ...] | None = setting(None, doc="turn, and --cleanse: epochs of the probe" + _BY, key=True)
    probe_loss: tuple[str, ...] = setting(
        (defaults.PROBE_LOSS,), doc="turn, and --cleanse: loss of the probe", key=True, choices=LOSSES
    )
    probe_lr: tuple[float, ...] | None = setting(None, doc="turn, --cleanse: rate of the probe" + _BY, key=True)
    probe_weight_decay: tuple[float, ...] | None = setting(
        None, doc="turn, --cleanse: decay of the probe" + _BY, key=True
    )
    tau: tuple[float, ...] = setting(
        (defaults.TAU,), doc="turn, and --cleanse: posterior above which a sample counts as clean", key=True
    )
    cleanse: tuple[str, ...] | None = setting(
        None,
        doc="turn, lp, mlp, nmtune: cleanse never, once or before each epoch; unset: turn each, others none",
        key=True,
        choices=CLEANSE,
    )
    fft_epochs: tuple[int, ...] | None = setting(None, doc="turn, fft, lora: epochs of fine-tuning" + _BY, key=True)
    fft_lr: tuple[float, ...] | None = setting(
        None, doc="turn, fft, lora: learning rate; unset: TURN's Table 8, by backbone", key=True
    )
    fft_weight_decay: tuple[float, ...] | None = setting(
        None, doc="turn, fft, lora: decay; unset: TURN's Table 8, by backbone", key=True
    )
    fft_batch_size: tuple[int, ...] | None = setting(None, doc="turn, fft, lora: images a step" + _BY, key=True)
    fft_optimizer: tuple[str, ...] | None = setting(
        None, doc="turn, fft, lora: optimiser; unset: TURN's Table 8, by backbone", key=True, choices=OPTIMIZERS
    )
    fft_schedule: tuple[str, ...] | None = setting(
        None, doc="turn, fft, lora: learning rate by step" + _BY, key=True, choices=SCHEDULES
    )
    fft_loss: tuple[str, ...] = setting((defaults.FFT_LOSS,), doc="turn: loss of fine-tuning", key=True, choices=LOSSES)
    fft_batch_norm: tuple[str, ...] = setting(
        ("frozen",),
        doc="turn, fft, lora: statistics of BatchNorm: the backbone's, or each batch's",
        key=True,
        choices=BATCH_NORM,
    )
    tune_backbone: tuple[str, ...] = setting(
        ("full",), doc="turn: fine-tune all weights, or low-rank adapters", key=True, choices=TUNE_BACKBONE
    )
    augment: tuple[str, ...] = setting(
        (defaults.AUGMENT,),
        doc="turn, fft, lora: weak = random flip and shift while fine-tuning",
        key=True,
        choices=AUGMENT,
    )
    lora_rank: tuple[int, ...] = setting(
        (defaults.LORA_RANK,), doc="lora, turn by lora: rank of the adapters", key=True
    )
    lora_alpha: tuple[int, ...] = setting(
        (defaults.LORA_ALPHA,), doc="lora, turn by lora: adapters are scaled by alpha / rank", key=True
    )
    lora_dropout: tuple[float, ...] = setting((0.0,), doc="lora, turn by lora: dropout before the adapters", key=True)
    lora_targets: tuple[str, ...] = setting(
        (defaults.LORA_TARGETS,),
        doc="lora, turn by lora: layers that get adapters; auto: mlp, or conv where the backbone has none",
        key=True,
        choices=LORA_TARGETS,
    )
    amp: str = setting(
        "none",
        doc="mixed precision of turn, fft, lora (bf16, fp16: needs CUDA) and of lp, mlp, nmtune (bf16)",
        key=True,
        choices=AMP,
    )
    accumulate: int = setting(
        1, doc="turn, fft, lora: parts in which a step's images go through the backbone", key=True
    )
    spectra: bool = setting(True, doc="SVE and LSVR of the transformed space on each evaluation split", key=True)
    predictions: bool = setting(True, doc="keep every sample's prediction", key=True)
    keep_backbone: bool = setting(
        False,
        doc="turn, fft, lora: keep each run's fine-tuned backbone, for predict; adapters are kept anyway",
        key=True,
    )
    data: str = setting("", doc="turn, fft, lora: images to read again; unset: from where extract read them", key=False)
    data_root: str | None = setting(
        None, doc="turn, fft, lora: folder below which torchvision: and suite: look [$NMTOOL_DATA]", key=False
    )
    model: str = setting(
        "", doc="turn, fft, lora, zeroshot: backbone to read again; unset: from where extract read it", key=False
    )
    arch: str = setting("", doc="turn, fft, lora, zeroshot: architecture, with a weights file", key=False)
    model_kwargs: tuple[str, ...] = setting(
        (), doc="turn, fft, lora, zeroshot: KEY=VALUE of the architecture; repeatable", key=False, repeat=True
    )
    device: str = setting("auto", doc="auto, cpu or cuda[:N]", key=False)
    workers: int = setting(0, doc="turn, fft, lora: threads that decode; 0: as many as there are cores", key=False)
