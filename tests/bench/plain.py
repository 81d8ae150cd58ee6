"""The plain implementations: what one writes in an afternoon with PyTorch, timm, numpy and scikit-learn.

Independent of nmtool, and neither tuned nor crippled: default settings of the libraries, no trick and no mistake.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from sklearn.mixture import GaussianMixture
from timm.data import create_transform
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from torchvision.datasets import ImageFolder

# ------------------------------------------------------------------------------------------------------------- extract


def encoder(arch: str, weights: Path | None, **kwargs: Any) -> nn.Module:
    """A timm model without classifier; from a safetensors file, or random from seed 0."""
    torch.manual_seed(0)
    model = timm.create_model(arch, **kwargs)
    if weights is not None:
        from safetensors.torch import load_file

        model.load_state_dict({name: t.float() for name, t in load_file(weights).items()}, strict=False)
    model.reset_classifier(0)
    return model.eval()


def transform(size: int, mean: Sequence[float], std: Sequence[float], interpolation: str, crop_pct: float) -> Any:
    """timm's evaluation transform."""
    return create_transform(size, interpolation=interpolation, crop_pct=crop_pct, mean=mean, std=std)


@torch.inference_mode()
def extract(
    model: nn.Module,
    images: Path,
    prepare: Any,
    workers: int,
    batch_size: int,
    out: Path,
    device: torch.device,
    amp: str,
) -> None:
    """Features and labels of an image folder, as two files; in mixed precision unless ``amp`` is none."""
    loader = DataLoader(
        ImageFolder(str(images), prepare),
        batch_size=batch_size,
        num_workers=workers,
        pin_memory=device.type == "cuda",
    )
    model.to(device)
    half = torch.float16 if amp == "fp16" else torch.bfloat16
    features, labels = [], []
    for batch, y in loader:
        with torch.autocast(device.type, dtype=half, enabled=amp != "none"):
            found = model(batch.to(device, non_blocking=True))
        features.append(found.float().cpu().numpy())
        labels.append(y.numpy())
    save(out / "features.npy", np.concatenate(features))
    save(out / "labels.npy", np.concatenate(labels))


def save(path: Path, array: Any) -> None:
    """np.save, and the bytes on the disk."""
    with path.open("wb") as stream:
        np.save(stream, array)
        stream.flush()
        os.fsync(stream.fileno())


def decode(path: Path, prepare: Any) -> torch.Tensor:
    """One image file as the model's input."""
    with Image.open(path) as image:
        return prepare(image.convert("RGB"))


# --------------------------------------------------------------------------------------------------------------- heads


def linear_head(
    X: torch.Tensor,
    y: torch.Tensor,
    test: tuple[torch.Tensor, torch.Tensor],
    *,
    fraction: float,
    seed: int,
    classes: int,
    epochs: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
) -> tuple[float, dict[str, torch.Tensor]]:
    """A linear probe on a stratified share of the rows: test accuracy of the last epoch, and the head."""
    torch.manual_seed(seed)
    rows = torch.cat([r[torch.randperm(len(r))[: int(fraction * len(r))]] for r in _by_class(y, classes)])
    loader = DataLoader(TensorDataset(X[rows], y[rows]), batch_size=batch_size, shuffle=True)
    head = nn.Linear(X.shape[1], classes)
    nn.init.kaiming_uniform_(head.weight)  # as the papers' authors start theirs
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.AdamW(head.parameters(), lr=lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs * len(loader))
    accuracy = 0.0
    for _ in range(epochs):
        for features, labels in loader:
            optimizer.zero_grad()
            loss = functional.cross_entropy(head(features), labels)
            loss.backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            accuracy = float((head(test[0]).argmax(1) == test[1]).float().mean())
    return accuracy, head.state_dict()


def _by_class(y: torch.Tensor, classes: int) -> Iterator[torch.Tensor]:
    for c in range(classes):
        yield torch.nonzero(y == c).flatten()


# ---------------------------------------------------------------------------------------------------------------- step


class Mlp(nn.Module):
    """D → 4D → D with a ReLU, and a classifier; gives Z and the logits."""

    def __init__(self, dim: int, classes: int) -> None:
        super().__init__()
        self.transform = nn.Sequential(nn.Linear(dim, 4 * dim), nn.ReLU(), nn.Linear(4 * dim, dim))
        self.classifier = nn.Linear(dim, classes)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Z and the logits."""
        z = self.transform(x)
        return z, self.classifier(z)


def nmtune_terms(f: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Consistency, covariance and dominant singular value (NMTune Eq. 3 to 5), as the formulas stand."""
    mse = (functional.normalize(f, dim=1) - functional.normalize(z, dim=1)).pow(2).sum(1).mean()
    centred = z - z.mean(0)
    cov = centred.T @ centred / (len(z) - 1)
    off = cov.pow(2).sum() - cov.diagonal().pow(2).sum()
    sigma = torch.linalg.svdvals(z)
    return mse, off / z.shape[1], -sigma[0] / sigma.sum()


def train_mlp(
    model: Mlp,
    optimizer: torch.optim.Optimizer,
    X: torch.Tensor,
    y: torch.Tensor,
    batch_size: int,
    weight: float,
) -> None:
    """One epoch; the regularisers with this weight, or without them for 0."""
    for rows in torch.randperm(len(X)).split(batch_size):
        x = X[rows]
        z, logits = model(x)
        loss = functional.cross_entropy(logits, y[rows])
        if weight:
            loss = loss + weight * sum(nmtune_terms(x, z))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


# ----------------------------------------------------------------------------------------------- spectrum and cleansing


def singular_values(X: Any) -> Any:
    """By LAPACK, in float64."""
    return np.linalg.svd(X.astype(np.float64), compute_uv=False)


def entropy(sigma: Any) -> float:
    """Of the normalised singular values, in nats."""
    p = sigma / sigma.sum()
    return -math.fsum(v * math.log(v) for v in p if v > 0)


def clean_posterior(losses: Any, labels: Any, classes: int) -> Any:
    """For each class a mixture of two Gaussians on the losses scaled to [0, 1]; posterior of the lower one."""
    posterior = np.zeros(len(losses))
    for c in range(classes):
        members = labels == c
        values = losses[members].reshape(-1, 1)
        values = (values - values.min()) / (values.max() - values.min())
        mixture = GaussianMixture(n_components=2, max_iter=20, tol=1e-2, reg_covar=5e-4, random_state=0)
        mixture.fit(values)
        posterior[members] = mixture.predict_proba(values)[:, mixture.means_.argmin()]
    return posterior
