"""P5: many processes that make the same artifact at once: one whole result for all, with and without locks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nmtool.artifact.open import open_artifact, verify

KEYS, PROCESSES = 40, 6

# One process of the race: it makes every artifact, in the same order as its rivals, and tells which it returned.
RUNNER = """
import fcntl, json, os, sys
from pathlib import Path
if sys.argv[2] == "noop":
    fcntl.flock = lambda fd, how: None
from nmtool.artifact.key import Recipe
from nmtool.artifact.stage import Session, produce

def build(staging):
    # Every racer writes bytes of its own: a mixture of two would be seen.
    for part in range(3):
        staging.write(f"part-{part}", (f"{os.getpid()}\\n" * 500).encode())
    return {"pid": os.getpid()}

out = []
sys.stdin.read(1)
for number in range(int(sys.argv[3])):
    recipe = Recipe(stage="race", kind="labels", epoch=1, config={"number": number}, inputs=())
    ref = produce(Session(store=Path(sys.argv[1]), lock_wait=60), recipe, name="race", config={}, build=build)
    out.append([str(ref.path), ref.content, ref.cached])
print(json.dumps(out))
"""


@pytest.mark.parametrize("locks", ["flock", "noop"])
def test_one_wins_and_all_return_it(tmp_path: Path, locks: str) -> None:
    command = [sys.executable, "-c", RUNNER, str(tmp_path), locks, str(KEYS)]
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
        for _ in range(PROCESSES)
    ]
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("g")
        racer.stdin.close()
        racer.stdin = None
    told = [json.loads(racer.communicate(timeout=120)[0]) for racer in racers]
    assert [racer.returncode for racer in racers] == [0] * PROCESSES
    for number in range(KEYS):
        assert len({(rows[number][0], rows[number][1]) for rows in told}) == 1
        artifact = open_artifact(Path(told[0][number][0]))
        verify(artifact, (1, 1))
        assert len({artifact.read(f"part-{part}") for part in range(3)}) == 1
        if locks == "flock":
            assert sum(not rows[number][2] for rows in told) == 1
    assert sorted(p.name for p in (tmp_path / "labels").iterdir()) == sorted(Path(r[0]).name for r in told[0])
