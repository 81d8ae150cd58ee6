"""What the pre-training tests ask for unless they say otherwise."""

from __future__ import annotations

import dataclasses
from typing import Any

from nmtool.artifact.stage import Session
from nmtool.pretrain.config import Config
from nmtool.pretrain.run import run
from nmtool.records import ArtifactRef

CONFIG = Config(
    data="digits", split="pretrain", arch="test_resnet", epochs=2, batch_size=64, lr=3e-3, augment="crop", device="cpu"
)


def pretrain(session: Session, **change: Any) -> ArtifactRef:
    """Run ``pretrain`` on the digits."""
    return run(dataclasses.replace(CONFIG, **change), session)
