"""What the extraction tests ask for unless they say otherwise."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from nmtool.artifact.stage import Session
from nmtool.extract.config import Config
from nmtool.extract.run import run
from nmtool.records import ArtifactRef

CONFIG = Config(model="timm:test_resnet", data="", untrained=True, image_size=32, batch_size=5, workers=1, device="cpu")


def extract(session: Session, data: Path | str, **change: Any) -> ArtifactRef:
    """Run ``extract`` on an image folder (a path) or a data URI (a text)."""
    uri = data if isinstance(data, str) else f"folder:{data}"
    return run(dataclasses.replace(CONFIG, data=uri, **change), session)
