"""A tiny artifact made by the real machinery, for tests that then hurt it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from artifact_samples import build_features, recipe

from nmtool.artifact.stage import Session, produce
from nmtool.records import ArtifactRef


@pytest.fixture
def made(tmp_path: Path) -> Callable[..., ArtifactRef]:
    """Make the tiny features artifact in ``tmp_path/store``."""

    def make(session: Session | None = None, **config: object) -> ArtifactRef:
        return produce(
            session or Session(store=tmp_path / "store"), recipe(**config), name="tiny", config={}, build=build_features
        )

    return make
