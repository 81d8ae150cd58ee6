"""Commit, cache hits, replacement, resumption: what holds when nothing goes wrong, and when it does in one process."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from artifact_samples import CHUNK, build_features, matrix, recipe

from nmtool.artifact import arrays, lock, stage
from nmtool.artifact.key import Recipe, differences
from nmtool.artifact.memo import Memo, file_digest
from nmtool.artifact.open import open_artifact, verify
from nmtool.artifact.stage import STAGING, Session, Staging, produce
from nmtool.errors import BusyError, CannotCreateError, CorruptError, UsageError
from nmtool.records import ArtifactRef, InputRef

Make = Callable[..., ArtifactRef]


def test_what_is_made_is_whole_and_leaves_nothing_behind(made: Make, tmp_path: Path) -> None:
    ref = made()
    artifact = open_artifact(ref.path)
    assert verify(artifact, (1, 1)).files == len(artifact.files)
    assert np.array_equal(arrays.read_array(artifact, "features.zarr", "train/features"), matrix())
    assert sorted(p.name for p in ref.path.iterdir()) == ["README.txt", "data", "files.jsonl", "manifest.json"]
    assert [p.name for p in ref.path.parent.iterdir()] == [ref.path.name]
    assert not any(os.access(p, os.W_OK) for p in ref.path.rglob("*") if p.is_file()) or os.geteuid() == 0
    assert all(p.stat().st_mode & 0o222 == 0 for p in ref.path.rglob("*") if p.is_file())


def test_a_hit_is_served_and_nothing_is_built(made: Make, tmp_path: Path) -> None:
    first = made()

    def never(staging: Staging) -> Mapping[str, object]:
        raise AssertionError("built on a hit")

    again = produce(Session(store=tmp_path / "store"), recipe(), name="tiny", config={}, build=never)
    assert again.cached
    assert (again.path, again.content) == (first.path, first.content)


def test_a_hit_sweeps_the_lock_of_a_run_that_was_killed_after_its_rename(made: Make, tmp_path: Path) -> None:
    ref = made()
    staging = ref.path.parent / STAGING
    staging.mkdir()
    left = staging / f"{ref.path.name}.lock"
    left.write_bytes(b"{}")
    with lock.advisory_lock(left, 0, "a run that lives"):
        assert made().cached
        assert left.exists()
    assert made().cached
    assert [p.name for p in ref.path.parent.iterdir()] == [ref.path.name]
    staging.mkdir()  # killed still later
    assert made().cached
    assert not staging.exists()


def test_an_owner_that_goes_while_it_is_read_is_no_owner(
    made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rival without locks removes it between two of our looks; who of us renames the folder is all one."""
    ref = made()
    staging = ref.path.parent / STAGING
    staging.mkdir()
    theirs = staging / f"{ref.path.name}~{ref.key[7:23]}~0123456789abcdef"
    ref.path.rename(theirs)
    (theirs / "owner.json").write_bytes(lock.this_process().to_bytes())
    read = Path.read_bytes

    def gone(self: Path) -> bytes:
        if self.name == "owner.json":
            self.unlink()
        return read(self)

    monkeypatch.setattr(Path, "read_bytes", gone)

    def never(staging: Staging) -> Mapping[str, object]:
        raise AssertionError("built what is sealed")

    again = produce(Session(store=tmp_path / "store"), recipe(), name="tiny", config={}, build=never)
    assert (again.path, again.content) == (ref.path, ref.content)
    assert [p.name for p in ref.path.parent.iterdir()] == [ref.path.name]


def test_force_makes_it_again_with_the_same_content(made: Make, tmp_path: Path) -> None:
    first = made()
    inode = first.path.stat().st_ino
    again = made(Session(store=tmp_path / "store", force=True))
    assert not again.cached
    assert again.content == first.content
    assert again.path.stat().st_ino != inode
    assert [p.name for p in first.path.parent.iterdir()] == [first.path.name]


def test_dry_run_writes_nothing(made: Make, tmp_path: Path) -> None:
    ref = made(Session(store=tmp_path / "store", dry_run=True))
    assert ref.planned
    assert not (tmp_path / "store").exists()


def test_another_recipe_does_not_replace_an_out(made: Make, tmp_path: Path) -> None:
    out = tmp_path / "here"
    made(Session(out=out))
    with pytest.raises(CannotCreateError) as caught:
        made(Session(out=out), other=1)
    assert caught.value.exit_code == 73
    assert made(Session(out=out, force=True), other=1).path == out


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_is_not_ours_is_not_touched(made: Make, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "taken"
    if kind == "file":
        out.write_text("mine")
    else:
        out.mkdir()
        (out / "mine").write_text("mine")
    for force in (False, True):
        with pytest.raises(CannotCreateError):
            made(Session(out=out, force=force))
    assert (out if kind == "file" else out / "mine").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["taken"]


def test_a_file_where_a_folder_should_be_is_73(made: Make, tmp_path: Path) -> None:
    (tmp_path / "flat").write_text("x")
    with pytest.raises(CannotCreateError):
        made(Session(out=tmp_path / "flat" / "out"))


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="no file system here that makes no folders")
def test_where_no_folders_are_made_is_73(made: Make) -> None:
    with pytest.raises(CannotCreateError, match="/proc/nmtool can be made"):
        made(Session(out=Path("/proc/nmtool/out")))


def _stop_after(chunks: int) -> Callable[[Staging], Mapping[str, object]]:
    def build(staging: Staging) -> Mapping[str, object]:
        X = matrix()
        writer = arrays.ArrayWriter(staging, "features.zarr", "train/features", X.shape, X.dtype, CHUNK)
        for chunk in range(chunks):
            start, stop = writer.bounds(chunk)
            writer.write(chunk, X[start:stop])
        raise KeyboardInterrupt

    return build


def _counting(staging: Staging, written: list[int]) -> Mapping[str, object]:
    X = matrix()
    writer = arrays.ArrayWriter(staging, "features.zarr", "train/features", X.shape, X.dtype, CHUNK)
    for chunk in range(writer.chunks):
        if not writer.is_done(chunk):
            start, stop = writer.bounds(chunk)
            writer.write(chunk, X[start:stop])
            written.append(chunk)
    staging.write("note.json", b"{}")
    return {"rows": len(X)}


def _bury(store: Path) -> Path:
    """Make the staging folder's owner a process that is provably dead: this one, started at another time."""
    (folder,) = (p for p in store.rglob("*~*") if p.is_dir() and p.parent.name == STAGING)
    owner = lock.this_process()
    dead = lock.Owner(host=owner.host, boot=owner.boot, pid_namespace=owner.pid_namespace, pid=owner.pid, started="1")
    (folder / "owner.json").write_bytes(dead.to_bytes())
    return folder


def test_an_interrupted_run_is_gone_on_with(made: Make, tmp_path: Path) -> None:
    whole = made(Session(store=tmp_path / "other"))
    store = tmp_path / "store"
    with pytest.raises(KeyboardInterrupt):
        produce(Session(store=store), recipe(), name="tiny", config={}, build=_stop_after(3))
    _bury(store)
    written: list[int] = []
    ref = produce(
        Session(store=store), recipe(), name="tiny", config={}, build=lambda staging: _counting(staging, written)
    )
    assert written == [3, 4, 5, 6, 7]
    assert ref.content == whole.content
    assert [p.name for p in ref.path.parent.iterdir()] == [ref.path.name]


def test_files_that_a_killed_run_had_not_renamed_are_swept(made: Make, tmp_path: Path) -> None:
    """Killed while it took over (owner), sealed (table, manifest) or kept a checkpoint: nothing of it is committed."""
    whole = made(Session(store=tmp_path / "other"))
    store = tmp_path / "store"
    with pytest.raises(KeyboardInterrupt):
        produce(Session(store=store), recipe(), name="tiny", config={}, build=_stop_after(3))
    folder = _bury(store)
    done = len((folder / "journal.jsonl").read_bytes().splitlines())
    (folder / "work").mkdir()
    for name in ("owner.json", "files.jsonl", "manifest.json", "README.txt", "work/checkpoint", "data/features.zarr/x"):
        (folder / f"{name}.0123456789abcdef.tmp").write_bytes(b"{")
    ref = produce(Session(store=store), recipe(), name="tiny", config={}, build=lambda staging: _counting(staging, []))
    assert ref.content == whole.content
    assert sorted(p.name for p in ref.path.iterdir()) == ["README.txt", "data", "files.jsonl", "manifest.json"]
    assert open_artifact(ref.path).manifest.made["resumed"] == done
    assert [p.name for p in ref.path.parent.iterdir()] == [ref.path.name]


def test_what_follows_a_torn_line_is_believed(tmp_path: Path) -> None:
    """Killed in the middle of a line, then again later: the second run's first file is not lost with the torn line."""
    staging = Staging(tmp_path, {}, 0)
    staging.write("a", b"1", note="first")
    with (tmp_path / "journal.jsonl").open("ab") as journal:
        journal.write(b'{"note":"","path":"data/b","sha')
    again = stage._reopen(tmp_path)
    assert (again.has("a"), again.has("b")) == (True, False)
    again.write("b", b"22", note="second")
    again.write("c", b"333")
    third = stage._reopen(tmp_path)
    assert [third.has(name) for name in "abc"] == [True, True, True]
    assert (third.note("a"), third.note("b"), third.read("b")) == ("first", "second", b"22")


def test_a_live_run_is_never_robbed(made: Make, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with pytest.raises(KeyboardInterrupt):
        produce(Session(store=store), recipe(), name="tiny", config={}, build=_stop_after(3))
    # The owner is this process, which lives: its folder stays, and the work is done again.
    written: list[int] = []
    produce(Session(store=store), recipe(), name="tiny", config={}, build=lambda staging: _counting(staging, written))
    assert written == list(range(8))
    assert len([p for p in store.rglob("*~*") if p.parent.name == STAGING]) == 1


def test_a_damaged_chunk_of_a_dead_run_is_not_believed(made: Make, tmp_path: Path) -> None:
    store = tmp_path / "store"
    with pytest.raises(KeyboardInterrupt):
        produce(Session(store=store), recipe(), name="tiny", config={}, build=_stop_after(3))
    folder = _bury(store)
    chunk = folder / "data/features.zarr/train/features/c/1/0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    (folder / "data/features.zarr/train/features/c/7").mkdir()
    (folder / "data/features.zarr/train/features/c/7/0").write_bytes(b"not in the journal")
    with (folder / "journal.jsonl").open("ab") as journal:
        journal.write(b'{"path":"data/torn')
    written: list[int] = []
    ref = produce(
        Session(store=store), recipe(), name="tiny", config={}, build=lambda staging: _counting(staging, written)
    )
    assert written == [1, 3, 4, 5, 6, 7]
    assert np.array_equal(arrays.read_array(open_artifact(ref.path), "features.zarr", "train/features"), matrix())


def test_twenty_five_orphans_five_adopters(tmp_path: Path) -> None:
    """P6: a dead run's staging is adopted by exactly one successor."""
    for number in range(25):
        out = tmp_path / f"o{number}" / "art"
        key = "sha256:" + f"{number:064x}"
        out.parent.mkdir()
        one = Recipe(stage="s", kind="features", epoch=1, config={}, inputs=())
        staging = stage._create(out, key, one)
        staging.write("x", b"kept")
        _bury(out.parent)
        won: list[Staging] = []
        barrier = threading.Barrier(5)

        def adopt(
            out: Path = out, key: str = key, won: list[Staging] = won, barrier: threading.Barrier = barrier
        ) -> None:
            barrier.wait()
            got = stage._adopt(out, key)
            if got is not None:
                won.append(got)

        threads = [threading.Thread(target=adopt) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert won[0].read("x") == b"kept"
        assert len(list((out.parent / STAGING).glob("*~*"))) == 1


def test_a_run_that_lost_its_folder_stops_and_makes_no_ghost(tmp_path: Path) -> None:
    out = tmp_path / "art"
    staging = stage._create(out, "sha256:" + "0" * 64, recipe())
    staging.write("a", b"1")
    staging.path.rename(tmp_path / "taken")
    with pytest.raises(BusyError):
        staging.write("b", b"2")
    with pytest.raises(BusyError):
        staging.write("sub/b", b"2")
    assert not staging.path.exists()


def test_the_lock_names_its_holder(made: Make, tmp_path: Path) -> None:
    out = tmp_path / "art"
    folder = tmp_path / STAGING
    folder.mkdir()
    with (
        lock.advisory_lock(folder / "art.lock", 0, "it"),
        pytest.raises(BusyError, match=f"pid {os.getpid()}") as caught,
    ):
        made(Session(out=out))
    assert caught.value.exit_code == 75


def test_without_locks_the_first_to_commit_wins(made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system whose flock lets everybody in: the second run returns the first one's artifact."""
    monkeypatch.setattr("fcntl.flock", lambda fd, how: None)
    store = tmp_path / "store"

    def beaten(staging: Staging) -> Mapping[str, object]:
        made(Session(store=store))
        return build_features(staging)

    ref = produce(Session(store=store), recipe(), name="tiny", config={}, build=beaten)
    assert verify(open_artifact(ref.path), (1, 1)).files > 0
    assert [p.name for p in ref.path.parent.iterdir()] == [ref.path.name]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_failing_write_leaves_nothing_visible(
    made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real, calls = os.write, {"n": 0}

    def failing(fd: int, data: bytes) -> int:
        calls["n"] += 1
        if calls["n"] > 12:
            raise OSError(number, os.strerror(number))
        return real(fd, data)

    with monkeypatch.context() as patched:
        patched.setattr("os.write", failing)
        with pytest.raises(OSError, match=os.strerror(number)):
            made()
    assert [p.name for p in (tmp_path / "store" / "features").iterdir()] == [STAGING]
    assert not list((tmp_path / "store").rglob("*.tmp"))


def test_fsync_goes_before_rename_and_the_folder_after(
    made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """P18: the order on disk, as the calls are made."""
    log: list[tuple[str, str]] = []
    fsync, rename = os.fsync, os.rename

    def logged_fsync(fd: int) -> None:
        log.append(("fsync", os.readlink(f"/proc/self/fd/{fd}")))
        fsync(fd)

    def logged_rename(a: str, b: str) -> None:
        log.append(("rename", str(b)))
        if str(b).startswith(str(tmp_path)) and Path(a).is_file():
            assert ("fsync", str(a)) in log
        rename(a, b)

    monkeypatch.setattr("os.fsync", logged_fsync)
    monkeypatch.setattr("os.rename", logged_rename)
    ref = made()
    commit = log.index(("rename", str(ref.path)))
    assert ("fsync", str(ref.path.parent)) in log[commit:]
    manifest = next(i for i, (what, name) in enumerate(log) if what == "rename" and name.endswith("manifest.json"))
    data_files = [i for i, (what, name) in enumerate(log) if what == "rename" and "/data/" in name]
    assert max(data_files) < manifest < commit


def test_keys(tmp_path: Path) -> None:
    base = Recipe(stage="s", kind="features", epoch=1, config={"a": 1, "b": [1, 2]}, inputs=())
    swapped = Recipe(stage="s", kind="features", epoch=1, config={"b": [1, 2], "a": 1}, inputs=())
    assert base.key == swapped.key
    given = InputRef(role="data", kind="index", key="", content="sha256:" + "0" * 64)
    others = [
        Recipe(stage="s", kind="features", epoch=2, config={"a": 1, "b": [1, 2]}, inputs=()),
        Recipe(stage="t", kind="features", epoch=1, config={"a": 1, "b": [1, 2]}, inputs=()),
        Recipe(stage="s", kind="features", epoch=1, config={"a": 2, "b": [1, 2]}, inputs=()),
        Recipe(stage="s", kind="features", epoch=1, config={"a": 1, "b": [2, 1]}, inputs=()),
        Recipe(stage="s", kind="features", epoch=1, config={"a": 1, "b": [1, 2]}, inputs=(given,)),
    ]
    assert len({r.key for r in (base, *others)}) == 6
    assert differences(base.to_json(), others[2].to_json()) == [("config.a", 1, 2)]


def test_a_memo_never_answers_for_a_changed_file(tmp_path: Path) -> None:
    memo = Memo(tmp_path / "memo")
    file = tmp_path / "weights"
    file.write_bytes(b"one")
    first = file_digest(file, memo)
    file.write_bytes(b"two")  # same size, at once
    assert file_digest(file, memo) != first
    os.utime(file, (1, 1))
    second = file_digest(file, memo)
    assert file_digest(file, memo) == second
    assert file_digest(file, Memo(None)) == second


def test_a_hit_on_a_damaged_artifact_is_refused(made: Make, tmp_path: Path) -> None:
    ref = made()
    victim = ref.path / "data/features.zarr/train/features/c/3/0"
    victim.chmod(0o644)
    victim.write_bytes(victim.read_bytes()[:-4])
    with pytest.raises(CorruptError, match="--force"):
        made()
    assert made(Session(store=tmp_path / "store", force=True)).content == ref.content


def test_force_replaces_nothing_that_is_not_ours(made: Make, tmp_path: Path) -> None:
    web = tmp_path / "webapp"
    (web / "src").mkdir(parents=True)
    (web / "manifest.json").write_text('{"name": "pwa"}')
    (web / "src/app.js").write_text("x")
    with pytest.raises((CannotCreateError, CorruptError)):
        made(Session(out=web, force=True))
    assert (web / "src/app.js").read_text() == "x"
    ref = made(Session(out=tmp_path / "art"))
    (ref.path / "notes.txt").write_text("mine")
    with pytest.raises(CorruptError):
        made(Session(out=tmp_path / "art", force=True))
    assert (ref.path / "notes.txt").read_text() == "mine"


SEALING = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from artifact_samples import build_features, recipe
from nmtool.artifact import stage
step, calls = int(sys.argv[2]), 0
def count(real):
    def call(*given, **more):
        global calls
        calls += 1
        if calls > step:
            os._exit(9)
        return real(*given, **more)
    return call
seal = stage._seal_folder
def sealing(path):
    # From here on every call that changes the disk may be the last one.
    stage.fsync_folder = count(stage.fsync_folder)
    stage.shutil.rmtree = count(stage.shutil.rmtree)
    Path.unlink = count(Path.unlink)
    stage.os.rename = count(stage.os.rename)
    seal(path)
stage._seal_folder = sealing
stage.produce(stage.Session(store=Path(sys.argv[1])), recipe(), name="tiny", config={}, build=build_features)
"""


@pytest.mark.parametrize("step", [0, 3, 6, 7, 8, 9, 10, 11])
def test_killed_while_sealing_nothing_is_made_again(made: Make, tmp_path: Path, step: int) -> None:
    """Between the last byte and the rename, whoever is killed leaves work that the next run takes as it is."""
    whole = made(Session(store=tmp_path / "other"))
    store = tmp_path / "store"
    command = [sys.executable, "-c", SEALING, str(store), str(step), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode in (0, 9), done.stderr
    written: list[int] = []
    ref = produce(
        Session(store=store), recipe(), name="tiny", config={}, build=lambda staging: _counting(staging, written)
    )
    assert written == []
    assert ref.content == whole.content
    assert [p.name for p in ref.path.parent.iterdir()] == [ref.path.name]


def test_a_path_that_is_no_utf8_is_told_before_the_work(tmp_path: Path) -> None:
    def never(staging: Staging) -> Mapping[str, object]:
        raise AssertionError("built")

    with pytest.raises(UsageError, match="UTF-8"):
        produce(Session(store=tmp_path), recipe(), name="x", config={}, origin={"data": "caf\udce9"}, build=never)
    assert list(tmp_path.iterdir()) == []
