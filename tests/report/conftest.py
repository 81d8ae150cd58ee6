"""A small pipeline's artifacts, with the numbers of a real small computation: digits, logistic regression, SVD."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nmtool.artifact.format import canonical, sha256
from nmtool.artifact.key import Recipe
from nmtool.artifact.stage import Session, produce
from nmtool.artifact.typed import parquet_bytes
from nmtool.numerics import metrics, noise, singular
from nmtool.numerics.seeds import generator
from nmtool.records import ArtifactRef, InputRef

HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "=cmd()|'/c calc'!A1",
    "[x](javascript:alert(1))",
    r"$\frac{1}{2}$ & 50% #_^~",
    "esc\x1b[31mred\x07\u202egnp",
    'quote" onmouseover="alert(1)',
    "pipe | back`tick` <b>",
    "]]></style><svg onload=alert(1)>",
    "日本語 ünï",
    "plain",
)
RATIOS = (0.0, 0.1, 0.3)


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def ref(made: ArtifactRef, role: str) -> InputRef:
    return InputRef(role=role, kind=made.kind, key=made.key, content=made.content)


def row(**values: Any) -> dict[str, Any]:
    """A result row with every column of the contract."""
    base: dict[str, Any] = {
        "run": 0,
        "method": "lp",
        "loss": "ce",
        "seed": 0,
        "fraction": 1.0,
        "lr": 0.001,
        "split": "test",
        "role": "id",
        "n": 100,
        "accuracy": 0.5,
        "macro_f1": 0.5,
        "mean_per_class": 0.5,
        "best_accuracy": 0.5,
        "sve": 3.0,
        "lsvr": 1.0,
    }
    return base | values


class Bench:
    """Makes artifacts in one store, through the same door as the stages."""

    hostile = HOSTILE
    row = staticmethod(row)

    def __init__(self, store: Path) -> None:
        self.store = store

    def make(
        self,
        kind: str,
        files: dict[str, bytes],
        *,
        config: dict[str, object],
        inputs: Sequence[InputRef] = (),
        summary: dict[str, object] | None = None,
        origin: dict[str, object] | None = None,
    ) -> ArtifactRef:
        def build(staging: Any) -> dict[str, object]:
            for name, data in files.items():
                staging.write(name, data)
            return summary or {}

        recipe = Recipe(stage=kind, kind=kind, epoch=1, config=config, inputs=tuple(inputs))
        session = Session(store=self.store)
        return produce(session, recipe, name=kind, config=config, build=build, origin=origin)

    def labels(
        self, clean: Any, ratio: float, classes: Sequence[str], *, data: str = "digits", seed: int = 0
    ) -> ArtifactRef:
        noisy = noise.symmetric(clean, ratio, len(classes), rng=generator(seed, "test", repr(ratio)))
        n = len(clean)
        columns = {
            "row": np.arange(n),
            "sample": [f"s{i:05d}" for i in range(n)],
            "split": ["pretrain"] * n,
            "clean": clean,
            "noisy": noisy,
            "flipped": clean != noisy,
        }
        flipped = int(np.sum(clean != noisy))
        return self.make(
            "labels",
            {
                "labels.parquet": parquet_bytes(columns),
                "transition.npy": npy(noise.transition_matrix(clean, noisy, len(classes))),
                "classes.json": canonical(list(classes)),
            },
            config={"ratio": ratio, "type": "symmetric", "seed": seed, "data": data},
            inputs=[InputRef(role="data", kind="index", key="", content=sha256(data.encode()))],
            summary={
                "n": n,
                "classes": len(classes),
                "type": "symmetric",
                "ratio_requested": ratio,
                "ratio": flipped / n,
                "flipped": flipped,
                "seed": seed,
                "split": "pretrain",
            },
            origin={"data": data},
        )

    def backbone(self, ratio: float, labels: ArtifactRef | None, log: Sequence[dict[str, object]]) -> ArtifactRef:
        return self.make(
            "backbone",
            {
                "weights.safetensors": f"weights {ratio}".encode(),
                "config.json": canonical({"arch": "resnet10t"}),
                "log.jsonl": b"".join(canonical(line) + b"\n" for line in log),
            },
            config={"arch": "resnet10t", "epochs": len(log), "seed": 0},
            inputs=[ref(labels, "labels")] if labels is not None else [],
            summary={
                "arch": "resnet10t",
                "objective": "supervised",
                "epochs": len(log),
                "metrics": {"validation_accuracy": log[-1]["validation_accuracy"]},
            },
            origin={"data": "digits"},
        )

    def features(self, backbone: ArtifactRef | None, *, untrained: bool = False, name: str = "") -> ArtifactRef:
        spec = {"arch": "resnet10t", "weights": backbone.content if backbone else name, "untrained": untrained}
        content = backbone.content if backbone else name
        return self.make(
            "features",
            {"samples.parquet": parquet_bytes({"row": [0], "model": [content]})},
            config={"encoder": spec, "dtype": "float32"},
            inputs=[
                *([ref(backbone, "model")] if backbone else []),
                InputRef(role="data", kind="index", key="", content=sha256(b"digits")),
            ],
            summary={"model": "resnet10t", "dim": 64, "splits": {"train": {"n": 200, "digest": sha256(b"train")}}},
            origin={"data": "digits", "model": "/secret/place/backbone"},
        )

    def heads(
        self,
        features: ArtifactRef | None,
        rows: Sequence[dict[str, Any]],
        *,
        labels: Sequence[ArtifactRef] = (),
        cleansing: dict[str, Any] | None = None,
    ) -> ArtifactRef:
        columns = {name: [row.get(name) for row in rows] for name in rows[0]}
        files = {"results.parquet": parquet_bytes(columns), "heads.safetensors": b"heads"}
        if cleansing is not None:
            files["cleansing.parquet"] = parquet_bytes(cleansing)
        inputs = [ref(features, "features")] if features is not None else []
        return self.make(
            "heads",
            files,
            config={"method": "lp", "lr": [0.001], "made": sha256(files["results.parquet"])},
            inputs=[*inputs, *(ref(made, "labels") for made in labels)],
            summary={"results": [{"method": row.get("method")} for row in rows]},
        )

    def spectrum(self, features: ArtifactRef, matrices: dict[str, Any]) -> ArtifactRef:
        files: dict[str, bytes] = {}
        results: list[dict[str, object]] = []
        for number, (split, matrix) in enumerate(matrices.items()):
            sigma = singular.singular_values(matrix)
            files[f"sigma-{number}.npy"] = npy(sigma)
            results.append(
                {
                    "split": split,
                    "n": matrix.shape[0],
                    "dim": matrix.shape[1],
                    "rank": singular.rank(sigma, matrix.shape),
                    "sve": singular.singular_value_entropy(sigma),
                    "lsvr": singular.largest_singular_value_ratio(sigma),
                    "preprocess": "raw",
                    "features": features.content,
                    "model": "resnet10t",
                    "sigma": f"sigma-{number}.npy",
                }
            )
        files["spectrum.json"] = canonical({"results": results})
        return self.make("spectrum", files, config={"preprocess": "raw"}, inputs=[ref(features, "features")])


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "store")


class Digits:
    """Real numbers: probes on random non-linear features of digits, pre-trained on labels of some noise.

    The "backbone" is a random layer whose columns are scaled by what a classifier fitted on the noisy labels finds
    useful; enough for accuracies, spectra and spreads that a pipeline has.
    """

    def __init__(self) -> None:
        from sklearn.datasets import load_digits

        images, y = load_digits(return_X_y=True)
        self.known: dict[float, Any] = {}
        order = np.random.default_rng(0).permutation(len(y))
        self.x, self.y = images[order] / 16.0, y[order].astype(np.int64)

    def features(self, ratio: float, x: Any) -> Any:
        mix = np.random.default_rng(1).normal(size=(64, 640))
        return np.maximum(x @ mix, 0) * self.useful(ratio, mix)

    def useful(self, ratio: float, mix: Any) -> Any:
        from sklearn.linear_model import RidgeClassifier

        if ratio not in self.known:
            layer = np.maximum(self.x[:800] @ mix, 0)
            noisy = noise.symmetric(self.y[:800], ratio, 10, rng=np.random.default_rng(2))
            weights = np.abs(RidgeClassifier(alpha=10.0).fit(layer, noisy).coef_).max(axis=0)
            self.known[ratio] = 0.2 + weights / weights.max()
        return self.known[ratio]

    def evaluate(self, ratio: float, method: str, seed: int, fraction: float) -> list[dict[str, Any]]:
        from sklearn.linear_model import LogisticRegression

        rng = np.random.default_rng(seed)
        chosen = 800 + rng.permutation(400)[: int(400 * fraction)]
        strength = {"lp": 0.001, "nmtune": 0.02, "turn": 1.0}[method]
        head = LogisticRegression(C=strength, max_iter=30, tol=1e-2)
        head.fit(self.features(ratio, self.x[chosen]), self.y[chosen])
        tests = {
            "test": self.x[1200:1500],
            "shifted/test": np.roll(self.x[1500:], 1, axis=1),
            "blurred/test": self.x[1500:] * 0.4 + 0.2,
        }
        truth = {"test": self.y[1200:1500], "shifted/test": self.y[1500:], "blurred/test": self.y[1500:]}
        out = []
        for split, images in tests.items():
            matrix = self.features(ratio, images)
            guess, sigma = head.predict(matrix), singular.singular_values(matrix)
            got = {
                "accuracy": metrics.accuracy(guess, truth[split]),
                "macro_f1": metrics.macro_f1(guess, truth[split], 10),
                "mean_per_class": metrics.mean_per_class(guess, truth[split]),
                "best_accuracy": metrics.accuracy(guess, truth[split]),
                "sve": singular.singular_value_entropy(sigma),
                "lsvr": singular.largest_singular_value_ratio(sigma),
            }
            role = "id" if split == "test" else "ood"
            out.append(row(method=method, seed=seed, fraction=fraction, split=split, role=role, n=len(guess), **got))
        return out


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[ArtifactRef]]:
    """A store as six commands leave it: three backbones and all that follows, classes with hostile names."""
    import warnings

    store = tmp_path_factory.mktemp("pipeline") / "store"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the probes are stopped early on purpose
        return store, fill(Bench(store), Digits())


def cleansed(rounds: list[dict[str, Any]], clean: Any) -> dict[str, Any]:
    """A row a run, round and training row, as ``tune`` writes it: random choices, so purity is what chance gives."""
    rng = np.random.default_rng(7)
    noisy = noise.symmetric(clean, 0.4, 10, rng=rng)
    count = len(clean)
    parts = [(r["run"], k) for r in rounds for k in range(3)]
    selected = rng.random(count * len(parts)) < 0.5
    return {
        "run": np.repeat([run for run, _ in parts], count),
        "round": np.repeat([k for _, k in parts], count),
        "row": np.tile(np.arange(count), len(parts)),
        "selected": selected,
        "drawn": selected & (rng.random(count * len(parts)) < 0.8),
        "noisy": np.tile(noisy, len(parts)),
        "clean": np.tile(clean, len(parts)),
    }


def fill(bench: Bench, digits: Digits) -> list[ArtifactRef]:
    made: list[ArtifactRef] = []
    tuned = bench.labels(digits.y[800:1200], 0.4, HOSTILE, seed=3)
    for ratio in RATIOS:
        labels = bench.labels(digits.y[:800], ratio, HOSTILE)
        log: list[dict[str, object]] = [
            {"epoch": e, "loss": 2.3 * 0.7**e + ratio, "validation_accuracy": (0.9 - ratio) * (1 - 0.6**e)}
            for e in range(1, 7)
        ]
        backbone = bench.backbone(ratio, labels, log)
        features = bench.features(backbone)
        tests = {
            "test": digits.features(ratio, digits.x[:700]),
            "shifted/test": digits.features(ratio, np.roll(digits.x[:700], 1, axis=1)),
        }
        spectrum = bench.spectrum(features, tests)
        rows: list[dict[str, Any]] = []
        for method in ("lp", "nmtune", "turn"):
            for fraction in (0.25, 1.0):
                for seed in (0, 1, 2):
                    got = digits.evaluate(ratio, method, seed, fraction)
                    named = {"source": f"features-{features.content[7:19]}", "labels": f"labels-{tuned.content[7:19]}"}
                    rows += [r | named | {"run": len(rows) // 3, "noise_ratio": 0.4} for r in got]
        cleansing = cleansed([r for r in rows if r["method"] == "turn" and r["role"] == "id"], digits.y[800:1200])
        heads = bench.heads(features, rows, labels=[tuned], cleansing=cleansing)
        made += [labels, backbone, features, spectrum, heads]
    return [*made, tuned]


@pytest.fixture
def report(tmp_path: Path) -> Callable[..., tuple[ArtifactRef, Path]]:
    """Run the stage into a fresh store: (ref, its data folder)."""
    from nmtool.report.config import Config
    from nmtool.report.run import run

    def go(*paths: Path | str, store: Path | None = None, **settings: Any) -> tuple[ArtifactRef, Path]:
        session = Session(store=store or tmp_path / "reports")
        made = run(Config(artifacts=tuple(str(p) for p in paths), **settings), session)
        return made, made.path / "data"

    return go
