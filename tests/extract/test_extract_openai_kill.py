"""Killed with -9 in the middle, a run against a service asks for nothing again that was stored, and ends the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from service_samples import KEY, embedding, serving

from nmtool.artifact.open import open_artifact, verify
from nmtool.artifact.typed import read_features

# Small chunks, so that a kill finds some written, some half answered, and some not begun.
DRIVER = """
import os, sys
from pathlib import Path
import nmtool.extract.write as write
from nmtool.artifact.memo import Memo
from nmtool.artifact.stage import Session
from nmtool.extract.config import Config
from nmtool.extract.run import run
write.MOST_ROWS = 64
config = Config(model="openai:small", data=sys.argv[1], base_url=sys.argv[2], batch_size=int(sys.argv[4]), workers=3)
session = Session(store=Path(sys.argv[3]), memo=Memo(None), secret=os.environ.get)
print(run(config, session).path)
"""


def start(data: Path, url: str, store: Path, batch: int = 8) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", DRIVER, f"table:{data}", url, str(store), str(batch)]
    env = {**os.environ, "OPENAI_API_KEY": KEY, "NO_PROXY": "*"}
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)


def stored(store: Path, texts: dict[str, list[str]]) -> set[str]:
    """Texts whose embedding is on disk in the one staging folder: in whole chunks, or in answers that are kept."""
    (staging,) = (path for path in store.glob("features/.nmtool-staging/*~*") if path.is_dir())
    journal = staging / "journal.jsonl"
    out: set[str] = set()
    chunks: list[tuple[str, int]] = []
    for line in journal.read_bytes().split(b"\n")[:-1] if journal.exists() else []:
        parts = json.loads(line)["path"].split("/")
        if parts[3:5] == ["features", "c"]:
            chunks.append((parts[2], int(parts[5])))
    for split, number in chunks:
        out |= set(texts[split][number * 64 : (number + 1) * 64])
    for plan in staging.glob("work/ask/*/plan"):
        place, number = (int(part) for part in plan.parent.name.split("-"))
        rows = texts[sorted(texts)[place]][number * 64 : (number + 1) * 64]
        for batch, places in enumerate(json.loads(plan.read_bytes())):
            if (plan.parent / str(batch)).exists():
                out |= {rows[k] for k in places}
    first = staging / "work" / "ask" / "first"
    if (first.parent / "first-0").exists():
        split, row = json.loads(first.read_bytes())[0]
        out.add(texts[split][row])
    return out


@pytest.mark.slow
def test_killed_runs_ask_for_nothing_twice_and_end_the_same(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    words = ["film", "plot", "dull", "bright", "slow", "funny", "music", "end"]
    texts: dict[str, list[str]] = {"test": [], "train": []}
    lines = ["text\tlabel\tsplit"]
    for number in range(400):
        split = "train" if number < 300 else "test"
        text = f"{number} " + " ".join(rng.choice(words, size=int(rng.integers(1, 9))))
        texts[split].append(text)
        lines.append(f"{text}\t{number % 2}\t{split}")
    data = tmp_path / "texts.tsv"
    data.write_text("\n".join(lines) + "\n")
    with serving() as server:
        whole = start(data, server.url, tmp_path / "whole")
        wanted = open_artifact(Path(whole.communicate(timeout=120)[0].strip()))
        server.bodies.clear()
        server.answered.clear()
        store, server.delay = tmp_path / "killed", 0.05
        server.fault = lambda number, texts: "503" if number % 7 == 3 else ""
        safe: set[str] = set()
        for moment, batch in ((4, 8), (20, 5), (35, 8)):
            asked = len(server.bodies)
            process = start(data, server.url, store, batch)
            deadline = time.monotonic() + 60
            while len(server.bodies) < asked + moment - 3 and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.005)
            os.kill(process.pid, signal.SIGKILL)
            process.communicate()
            assert process.returncode == -signal.SIGKILL, "it was killed at work"
            time.sleep(0.3)  # what is on its way to the server arrives
            again = {text for body in server.bodies[asked:] for text in body["input"]}
            assert not again & safe, "what was stored is not asked for again"
            before, safe = safe, stored(store, texts)
            assert before <= safe
            lost = set(server.answered) - safe
            assert len(lost) <= 3 * 3 * 8, "a kill costs what was in flight, three requests of eight a kill"
        assert len(safe) > 100
        asked = len(server.bodies)
        last = start(data, server.url, store)
        out, _ = last.communicate(timeout=120)
        artifact = open_artifact(Path(out.strip()))
        again = {text for body in server.bodies[asked:] for text in body["input"]}
        assert again == {text for rows in texts.values() for text in rows} - safe
    verify(artifact, (1, 1))
    assert artifact.manifest.content == wanted.manifest.content
    assert artifact.manifest.made["resumed"] > 0
    assert not (artifact.path / "work").exists()
    for split, rows in texts.items():
        found: Any = read_features(artifact, split).features
        np.testing.assert_array_equal(found, np.stack([embedding(text) for text in rows]))


@pytest.mark.parametrize(("sign", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_keeps_answers_and_does_not_wait_for_retries(tmp_path: Path, sign: signal.Signals, code: int) -> None:
    data = tmp_path / "texts.tsv"
    data.write_text("text\tlabel\tsplit\n" + "".join(f"text {k}\t{k % 2}\ttrain\n" for k in range(64)))
    env = {**os.environ, "OPENAI_API_KEY": KEY, "NO_PROXY": "*"}
    with serving() as server:
        argv = ["extract", "openai:small", f"table:{data}", "--base-url", server.url, "--batch-size", "8", "--workers"]
        argv += ["1", "--store", str(tmp_path / "store")]
        server.fault = lambda number, texts: "429 500" if number >= 4 else ""
        process = subprocess.Popen([sys.executable, "-m", "nmtool", *argv], stderr=subprocess.PIPE, text=True, env=env)
        deadline = time.monotonic() + 60
        while len(server.bodies) < 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)
        process.send_signal(sign)
        began = time.monotonic()
        _, err = process.communicate(timeout=60)
        assert time.monotonic() - began < 8
        assert process.returncode == code, err
        assert KEY not in err
        paid = set(server.answered)
        server.fault = lambda number, texts: ""
        done = subprocess.run([sys.executable, "-m", "nmtool", *argv], capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr
        assert set(server.answered) == {f"text {k}" for k in range(64)}
        assert max(server.answered.values()) == 1
        assert len(paid) == 1 + 3 * 8
