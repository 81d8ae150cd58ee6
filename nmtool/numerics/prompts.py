"""Class prototypes of a model of images and texts, from embeddings of prompts. Pure; loads nothing."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def prototypes(embeddings: Tensor) -> Tensor:
    """Unit vectors [C, D]: each class's prompts at unit length, averaged, at unit length again (CLIP, section 3.1.4).

    Args:
        embeddings: [C, T, D], of T prompts a class.

    Returns:
        [C, D]; zeros for a class whose prompts cancel out.
    """
    return functional.normalize(functional.normalize(embeddings, dim=-1).mean(1), dim=-1)
