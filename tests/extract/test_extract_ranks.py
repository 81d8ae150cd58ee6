"""Several processes under ``torchrun`` make one artifact, one process's; killed, any number goes on from their work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch.distributed
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

from nmtool.artifact import lock
from nmtool.artifact.format import sha256
from nmtool.artifact.open import open_artifact, verify
from nmtool.artifact.stage import Staging, _reopen
from nmtool.artifact.typed import read_features
from nmtool.errors import DataError
from nmtool.extract.ranks import Crew, Ranks

pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch without gloo")

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
FLAGS = "--split train,test,pretrain --untrained --image-size 48 --batch-size 16 --device cpu"
EXTRACT = ("extract", "timm:test_resnet", "digits", *FLAGS.split())

# The command line with many small chunks on a slow disk, so that there is a moment to be killed in.
DRIVER = """
import os, sys, time
from pathlib import Path
import nmtool.extract.write as write
from nmtool.cli import run
write.MOST_ROWS = 64
own = write.SplitWriter.write
def slow(self, chunk):
    time.sleep(float(os.environ.get("SLOW", "0")))
    own(self, chunk)
write.SplitWriter.write = slow
if len(sys.argv) > 2 and sys.argv[1] == "pids":
    Path(f"pid-{os.environ.get('RANK', '0')}").write_text(str(os.getpid()))
os._exit(run(sys.argv[2:]))
"""


def launch(folder: Path, ranks: int, *argv: str, slow: float = 0.0) -> subprocess.Popen[str]:
    (folder / "driver.py").write_text(DRIVER)
    start = (*TORCHRUN, str(ranks), "driver.py") if ranks > 1 else (sys.executable, "driver.py")
    return subprocess.Popen(
        [*start, "pids", *argv],
        cwd=folder,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "SLOW": str(slow)},
    )


def finished(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return out


def journalled(store: Path, name: str) -> set[str]:
    """Chunk files that a journal vouches for."""
    found = set()
    for journal in store.glob(f"features/.nmtool-staging/*~*/{name}"):
        for line in journal.read_bytes().split(b"\n")[:-1]:
            path = json.loads(line)["path"]
            if "/features/c/" in path:
                found.add(path)
    return found


def test_two_ranks_make_the_same_artifact(tmp_path: Path) -> None:
    one = open_artifact(tmp_path / finished(launch(tmp_path, 1, *EXTRACT, "--store", "one")).strip())
    out = finished(launch(tmp_path, 2, *EXTRACT, "--store", "two"))
    assert out.count("\n") == 1, "rank 0 alone speaks"
    two = open_artifact(tmp_path / out.strip())
    verify(two, (1, 1))
    assert (two.manifest.key, two.manifest.content) == (one.manifest.key, one.manifest.content)
    assert two.manifest.summary["ranks"] == 2
    assert two.manifest.summary["encoded"] == one.manifest.summary["encoded"], "the rate is that of all ranks"
    share = two.manifest.summary["encoded_by_rank_0"]
    assert 0.4 < share / one.manifest.summary["encoded"] < 0.6
    assert [p.name for p in two.path.parent.iterdir() if p.name != ".nmtool-staging"] == [two.path.name]
    assert sorted(p.name for p in two.path.iterdir()) == sorted(p.name for p in one.path.iterdir())
    assert finished(launch(tmp_path, 2, *EXTRACT, "--store", "two")) == out, "a hit"


def test_texts_in_two_ranks(tmp_path: Path) -> None:
    """Rank 0 counts the texts that were cut in all chunks, whoever encoded them."""
    config = transformers.GPT2Config(vocab_size=64, n_embd=16, n_layer=1, n_head=2, n_positions=8)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(1)
        transformers.AutoModel.from_config(config).save_pretrained(tmp_path / "gpt2")
    tok = Tokenizer(models.WordLevel({"<u>": 0, "</s>": 1} | {w: k + 2 for k, w in enumerate("abcdefgh")}, "<u>"))
    tok.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tok, eos_token="</s>", model_max_length=8)
    fast.save_pretrained(tmp_path / "gpt2")
    lines = [f"{' '.join('abcdefgh'[(k * j) % 8] for j in range(1 + k % 12))}\t{k % 2}\ttrain" for k in range(300)]
    (tmp_path / "t.tsv").write_text("\n".join(["text\tlabel\tsplit", *lines]) + "\n")
    argv = ("extract", "transformers:gpt2", "table:t.tsv", "--device", "cpu", "--batch-size", "7", "--store")
    one = open_artifact(tmp_path / finished(launch(tmp_path, 1, *argv, "one")).strip())
    two = open_artifact(tmp_path / finished(launch(tmp_path, 2, *argv, "two")).strip())
    assert two.manifest.content == one.manifest.content
    cut = sum(1 + k % 12 > 8 for k in range(300))
    for artifact in (one, two):
        assert artifact.manifest.summary["splits"]["train"]["truncated"] == cut


@pytest.mark.slow
@pytest.mark.parametrize("then", [1, 3])
def test_a_killed_rank_leaves_work_for_any_number(tmp_path: Path, then: int) -> None:
    whole = open_artifact(tmp_path / finished(launch(tmp_path, 1, *EXTRACT, "--store", "whole")).strip())
    store = tmp_path / "killed"
    process = launch(tmp_path, 2, *EXTRACT, "--store", "killed", slow=0.2)
    deadline = time.monotonic() + 100
    while len(journalled(store, "journal-1.jsonl")) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(int((tmp_path / "pid-1").read_text()), signal.SIGKILL)
    process.communicate(timeout=100)
    assert process.returncode != 0
    done = journalled(store, "journal*.jsonl")
    theirs = journalled(store, "journal-1.jsonl")
    assert theirs
    assert theirs < done
    (staging,) = store.glob("features/.nmtool-staging/*~*/journal.jsonl")
    before = {path: (staging.parent / path).stat().st_ino for path in done if (staging.parent / path).exists()}
    again = open_artifact(tmp_path / finished(launch(tmp_path, then, *EXTRACT, "--store", "killed")).strip())
    verify(again, (1, 1))
    assert again.manifest.content == whole.manifest.content
    for path, inode in before.items():
        assert (again.path / path).stat().st_ino == inode, f"{path} was made again"
    assert again.manifest.made["resumed"] >= len(before)


def test_a_broken_image_stops_all_ranks(photos: Path, tmp_path: Path) -> None:
    (photos / "train" / "dog" / "004.jpg").write_bytes(b"no image")
    argv = ("extract", "timm:test_resnet", f"folder:{photos}", "--untrained", "--image-size", "32", "--device", "cpu")
    process = launch(tmp_path, 2, *argv, "--store", "s")
    _, err = process.communicate(timeout=100)
    assert process.returncode != 0
    assert "train/dog/004.jpg" in err
    assert "this is a defect" not in err
    out = finished(launch(tmp_path, 2, *argv, "--store", "s", "--on-error", "skip"))
    assert open_artifact(tmp_path / out.strip()).manifest.summary["splits"]["train"]["skipped"] == 1


def test_images_with_scores_in_two_ranks(photos: Path, tmp_path: Path) -> None:
    """Rank 0 writes the labels that are real numbers, whoever encoded the rows."""
    names = sorted(str(path.relative_to(tmp_path)) for path in photos.rglob("*.jpg"))
    rows = [f"{name},{k / 7},{name.split('/')[1]}" for k, name in enumerate(names)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,split", *rows]) + "\n")
    (tmp_path / names[9]).write_bytes(b"no image")
    argv = ("extract", "timm:test_resnet", "table:t.csv", "--untrained", "--image-size", "32", "--device", "cpu")
    argv = (*argv, "--on-error", "skip", "--views", "1", "--store")
    one = open_artifact(tmp_path / finished(launch(tmp_path, 1, *argv, "one")).strip())
    two = open_artifact(tmp_path / finished(launch(tmp_path, 2, *argv, "two")).strip())
    assert (two.manifest.key, two.manifest.content) == (one.manifest.key, one.manifest.content)
    table = read_features(two, "train")
    assert table.targets is not None
    assert table.targets.tolist() == [k / 7 for k, name in enumerate(names) if "/train/" in name]
    assert int((~table.ok).sum()) == 1


def test_other_stages_and_other_work_are_refused(nmtool: Callable[..., Any], tmp_path: Path) -> None:
    env = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    ran = nmtool("spectrum", tmp_path, env=env)
    assert ran.code == 2
    assert "spectrum in 2 processes" in ran.err
    one = {**env, "WORLD_SIZE": "1"}
    assert nmtool("extract", "none", "arrays:nothing.npz", env=one).code == 66, "a world of one is no special case"


def test_ranks_that_see_other_data_are_refused(tmp_path: Path) -> None:
    crew = Crew(Ranks())
    with pytest.raises(DataError, match="give all ranks the same files"):
        crew.follow(tmp_path, "features", "sha256:" + "a" * 64, "sha256:" + "b" * 64, lambda staging: {})


def staging_of(path: Path) -> Staging:
    path.mkdir()
    (path / "owner.json").write_bytes(lock.this_process().to_bytes())
    return Staging(path, {}, 0)


def test_journals_of_ranks_are_merged_and_become_one(tmp_path: Path) -> None:
    mine = staging_of(tmp_path / "s")
    mine.write("a", b"1", note="from 0")
    theirs = Staging.joined(tmp_path / "s", 1)
    assert theirs.has("a")
    theirs.write("b", b"22", note="from 1")
    assert not mine.has("b")
    mine.merge()
    assert mine.has("b")
    assert mine.note("b") == "from 1"
    assert [e.path for e in mine.entries()] == ["data/a", "data/b"]
    with (tmp_path / "s" / "journal-1.jsonl").open("ab") as stream:
        stream.write(b'{"path": "data/c", "si')  # torn by a kill
    again = _reopen(tmp_path / "s")
    assert [e.path for e in again.entries()] == ["data/a", "data/b"]
    assert again.note("b") == "from 1"
    assert [p.name for p in (tmp_path / "s").glob("journal*")] == ["journal.jsonl"]


def test_a_former_ranks_line_does_not_outlive_a_later_one(tmp_path: Path) -> None:
    """A file of rank 1 was lost on disk, and rank 0 of a later run wrote it again, other bytes of that length."""
    staging_of(tmp_path / "s").write("a", b"1")
    Staging.joined(tmp_path / "s", 1).write("b", b"old")
    (tmp_path / "s" / "data" / "b").unlink()
    _reopen(tmp_path / "s").write("b", b"new")
    last = _reopen(tmp_path / "s")
    assert {e.path: e.sha256 for e in last.entries()}["data/b"] == sha256(b"new")


def test_a_wrong_command_is_told_once(tmp_path: Path) -> None:
    """By rank 0; the others leave without a word, be it that they met it themselves or that torchrun stopped them."""
    ran = launch(tmp_path, 2, "extract", "timm:no_such_model", "digits", "--untrained")
    out, err = ran.communicate(timeout=240)
    assert (ran.returncode, out) == (1, ""), "torchrun's own code"
    assert err.count("error: timm knows no architecture 'no_such_model'") == 1, err
    assert "stopped by SIGTERM" not in err


def test_what_only_another_rank_met_is_told(nmtool: Callable[..., Any], tmp_path: Path) -> None:
    """Nobody stops it: rank 0 did not end."""
    env = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    ran = nmtool("extract", "timm:test_resnet", "digits", "--dtype", "int8", env=env)
    assert ran.code == 2
    assert "int8" in ran.err
