"""Making an artifact: private staging, a journal, resumption of a dead run's work, commit by directory rename.

The order on disk is: file (private name, fsync, rename), journal line (fsync), table, manifest, folders (fsync),
rename of the whole directory. Whoever is killed at any instant leaves no artifact or a whole one, and a staging folder
that the next run of the same recipe adopts. Locks only save duplicate work. The only writer of artifacts.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import platform
import secrets
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from nmtool import __version__
from nmtool.artifact import format as fmt
from nmtool.artifact.format import FileEntry, Manifest, sha256, slug
from nmtool.artifact.key import Recipe
from nmtool.artifact.lock import Owner, advisory_lock, is_dead, this_process
from nmtool.artifact.memo import Memo
from nmtool.artifact.open import Artifact, is_artifact, open_artifact, walk_data
from nmtool.errors import (
    BusyError,
    CannotCreateError,
    CorruptError,
    DataError,
    DivergedError,
    NmtoolError,
    UsageError,
)
from nmtool.records import ArtifactRef

STAGING = ".nmtool-staging"
# What the same recipe would run into again; anything else may pass, and the work is kept for it.
_FINAL = (DataError, DivergedError, UsageError)
# Folders that are made durable at once; each chunk of an array has one.
_SEALING = 8
# What a staging folder holds beside the artifact, in the order in which it goes.
_PRIVATE = ("journal.jsonl", "recipe.json", "owner.json")


class Reporter(Protocol):
    """Where a stage says how it is going; the console is one."""

    def info(self, message: str) -> None:
        """A line of news."""

    def warning(self, message: str) -> None:
        """Something the user should know."""

    def progress(self, total: int, what: str) -> contextlib.AbstractContextManager[Callable[[int], None]]:
        """A bar over ``total`` units; the function it yields advances it."""


class Silence:
    """A reporter that says nothing: for use from Python."""

    def info(self, message: str) -> None:
        """Nothing."""

    def warning(self, message: str) -> None:
        """Nothing."""

    @contextlib.contextmanager
    def progress(self, total: int, what: str) -> Iterator[Callable[[int], None]]:
        """No bar."""
        yield lambda done: None


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """Which of several processes this is that make one artifact together.

    Attributes:
        rank: 0 to world - 1; 0 decides.
        world: how many there are.
        local: which one on this machine.
        neighbours: how many there are on this machine.
    """

    rank: int = 0
    world: int = 1
    local: int = 0
    neighbours: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What a stage needs beside its configuration; none of it changes a number.

    Attributes:
        store: where artifacts go that have no ``out``.
        out: the artifact's own path, or None.
        force: make it again even where it is there.
        dry_run: plan only.
        lock_wait: seconds to wait for another run of the same recipe.
        command: the command as typed, for the manifest.
        report: where news goes.
        memo: remembered digests.
        ranks: which of several processes this is.
        secret: what the environment says under a name, for keys to services: they are in no configuration, so that they
            can get into no manifest; None where it says nothing.
    """

    store: Path = Path("nmruns")
    out: Path | None = None
    force: bool = False
    dry_run: bool = False
    lock_wait: float = 0.0
    command: str = ""
    report: Reporter = field(default_factory=Silence)
    memo: Memo = field(default_factory=lambda: Memo(None))
    ranks: Ranks = Ranks()
    secret: Callable[[str], str | None] = field(default=lambda name: None, repr=False)


class Staging:
    """A private folder in which one run makes one artifact. Thread-safe."""

    def __init__(
        self,
        path: Path,
        done: dict[str, FileEntry],
        resumed: int,
        notes: Mapping[str, str] | None = None,
        journal: str = "journal.jsonl",
    ) -> None:
        self.path = path
        self.resumed = resumed
        self._done = done
        self._notes = dict(notes or {})
        self._guard = threading.Lock()
        self._log = _Journal(path / journal)
        self._made: set[str] = set()

    @classmethod
    def joined(cls, path: Path, rank: int) -> Staging:
        """The staging of another process's run, to write into beside it, with a journal of one's own.

        Args:
            path: the folder, which its owner keeps.
            rank: 1 or more, one's own among all that write there.
        """
        done, notes = _journalled(path)
        return cls(path, done, len(done), notes, f"journal-{rank}.jsonl")

    def merge(self) -> None:
        """Learn from their journals what others wrote into this staging; they must be done."""
        done, notes = _journalled(self.path)
        with self._guard:
            self._done.update(done)
            self._notes.update(notes)

    def has(self, name: str) -> bool:
        """Whether ``data/NAME`` is written and journalled, by this run or by the one it goes on for."""
        return f"data/{name}" in self._done

    def read(self, name: str) -> bytes:
        """A payload file that is written already."""
        return (self.path / "data" / name).read_bytes()

    def write(self, name: str, *parts: bytes | bytearray | memoryview, note: str = "") -> None:
        """Write ``data/NAME`` whole, its parts one after the other: private name, fsync, rename, then the journal line.

        Args:
            name: below ``data/``.
            parts: contiguous bytes.
            note: kept with the journal line, for the run that may go on from here; no part of the artifact.
        """
        path = fmt.check_inside(f"data/{name}")
        self._make_parents(path)
        digest, size = _put(self.path, path, *(memoryview(part).cast("B") for part in parts))
        entry = FileEntry(path=path, size=size, sha256=digest)
        self._log.add({"path": path, "size": size, "sha256": digest, "note": note})
        with self._guard:
            self._done[path] = entry
            self._notes[path] = note

    def note(self, name: str) -> str:
        """What was noted when ``data/NAME`` was written; empty where nothing was."""
        return self._notes.get(f"data/{name}", "")

    def keep(self, name: str, data: bytes) -> None:
        """Keep a checkpoint: private work that the next run may go on from and that is no payload."""
        self._make_parents(f"work/{name}")
        _put(self.path, f"work/{name}", data)

    def kept(self, name: str) -> bytes | None:
        """A checkpoint of this run or of the one it goes on for."""
        try:
            return (self.path / "work" / name).read_bytes()
        except FileNotFoundError:
            return None

    def drop(self, name: str) -> None:
        """Forget a checkpoint that is not needed any more; none there is no error."""
        (self.path / "work" / name).unlink(missing_ok=True)

    def is_empty(self) -> bool:
        """Whether there is nothing worth adopting."""
        return not self._done and not (self.path / "work").exists()

    def entries(self) -> tuple[FileEntry, ...]:
        """The payload so far."""
        return tuple(sorted(self._done.values()))

    def _make_parents(self, path: str) -> None:
        """Create folders below the staging folder one by one: if the staging itself is gone, another run took it.

        Those that this run has made are not asked for again: were they gone, what is opened in them would tell.
        """
        folder = ""
        for part in path.split("/")[:-1]:
            folder = f"{folder}{part}/"
            if folder in self._made:
                continue
            try:
                (self.path / folder).mkdir()
            except FileExistsError:
                pass
            except FileNotFoundError:
                raise BusyError(f"{self.path} is gone", "this run's own staging folder", "run it again") from None
            self._made.add(folder)


class _Journal:
    """What is done, a line each, durable when ``add`` returns. Threads that wait together share one fsync."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writing, self._syncing = threading.Lock(), threading.Lock()
        self._written = self._synced = 0

    def add(self, line: Mapping[str, object]) -> None:
        """Append a line; returns once it is on disk."""
        body = fmt.canonical(line) + b"\n"
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            with self._writing:
                _write_all(fd, body)
                self._written += 1
                mine = self._written
            with self._syncing:
                if self._synced < mine:  # else whoever was before us took our line along
                    reached = self._written
                    os.fsync(fd)
                    self._synced = reached
        finally:
            os.close(fd)


def _write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    view = memoryview(data).cast("B")
    while view:
        written = os.write(fd, view)
        if written == 0:
            raise OSError(28, "short write")
        view = view[written:]


def _put(root: Path, path: str, *parts: bytes | bytearray | memoryview) -> tuple[str, int]:
    """Durable whole-file write below ``root``: exclusive private name, fsync, rename. Returns digest and size."""
    temporary = root / f"{path}.{secrets.token_hex(8)}.tmp"
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except FileNotFoundError:
        raise BusyError(f"{root} is gone", "this run's own staging folder", "run it again") from None
    try:
        try:
            for part in parts:
                _write_all(fd, part)
            begin_write_back(fd)
            digest = sha256(*parts)
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, root / path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    return digest, sum(len(part) for part in parts)


def begin_write_back(fd: int) -> None:
    """Have the kernel start to write a file to the disk while we do something else. fsync then waits for less.

    Only a hint: nothing depends on it, and where the system has no such call nothing happens.
    """
    call = _sync_file_range()
    if call is not None:
        call(fd, 0, 0, 2)  # SYNC_FILE_RANGE_WRITE, the whole file


@functools.cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    import ctypes

    try:
        call = ctypes.CDLL(None).sync_file_range
    except (OSError, AttributeError):
        return None
    call.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return call


def fsync_folder(path: Path) -> None:
    """fsync a directory; network file systems may not know how (EINVAL), which is let pass; EIO is not."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (22, 95):  # EINVAL, EOPNOTSUPP
            raise
    finally:
        os.close(fd)


def produce(
    session: Session,
    recipe: Recipe,
    *,
    name: str,
    config: Mapping[str, object],
    build: Callable[[Staging], Mapping[str, object]],
    origin: Mapping[str, object] | None = None,
    work: str = "",
) -> ArtifactRef:
    """Return the artifact of a recipe: the one that is there, or the one that ``build`` makes now.

    Args:
        session: where it goes, and how.
        recipe: what is asked; its key names the artifact.
        name: a readable name for its folder.
        config: the resolved settings, for the manifest.
        build: writes the payload into the staging it is given and returns the summary. It is called only on a miss, and
            imports what is heavy itself.
        origin: where the inputs were read from, as the user gave them; in neither key nor content.
        work: in words, what a miss has to do (for ``--dry-run``).

    Raises:
        CannotCreateError: the path is taken by something else.
        BusyError: another run makes the same, for longer than ``lock_wait``.
        CorruptError: what is there is damaged.
    """
    key = recipe.key
    command = session.command.encode("utf-8", "backslashreplace").decode()
    try:  # now, and not after hours of work
        fmt.canonical([dict(config), dict(origin or {})])
    except UnicodeEncodeError:
        raise UsageError("a path that is not UTF-8", "names in UTF-8: the manifest is", "rename or link it") from None
    session = dataclasses.replace(session, command=command)
    out = place_of(session, recipe, name)
    _check_not_inside(out)
    hit = _find(out, recipe, session)
    if hit is not None and not session.force:
        if session.dry_run:
            return dataclasses.replace(hit.ref(), planned=True)
        with contextlib.suppress(OSError):  # for make: a hit is as good as new
            os.utime(hit.path / fmt.MANIFEST)
        _sweep_lock(out)
        return hit.ref()
    if session.dry_run:
        return ArtifactRef(
            path=out, kind=recipe.kind, key=key, content="", cached=False, seconds=0.0, planned=True, work=work
        )
    began = time.monotonic()
    with _locked(out, session):
        if not session.force:
            hit = _find(out, recipe, session)
            if hit is not None:
                return hit.ref(seconds=time.monotonic() - began)
        sealed = _finish_sealed(out, key, recipe, session)
        if sealed is not None:
            return sealed.ref(cached=False, seconds=time.monotonic() - began)
        staging = _adopt(out, key) or _create(out, key, recipe)
        if staging.resumed:
            session.report.info(f"going on where an interrupted run stopped ({staging.resumed} files are there)")
        try:
            summary = build(staging)
            artifact = _commit(staging, out, recipe, config, summary, origin or {}, session, began)
        except BaseException as error:
            if staging.is_empty() or isinstance(error, _FINAL):
                shutil.rmtree(staging.path, ignore_errors=True)
            raise
    return artifact.ref(cached=False, seconds=time.monotonic() - began)


def place_of(session: Session, recipe: Recipe, name: str) -> Path:
    """Where the artifact of a recipe goes, or is; ``name`` as for ``produce``."""
    return session.out if session.out is not None else session.store / recipe.kind / f"{slug(name)}-{recipe.key[7:23]}"


def _find(out: Path, recipe: Recipe, session: Session) -> Artifact | None:
    """The artifact at ``out`` if it answers the recipe; None if nothing is there or ``--force`` may replace it."""
    if not os.path.lexists(out):
        return None
    if not is_artifact(out):
        if out.is_dir() and not out.is_symlink() and not any(out.iterdir()):
            return None  # rename(2) takes an empty directory's place
        raise CannotCreateError(f"{out} exists and is no artifact", "a free path", "choose another -o")
    try:
        artifact = open_artifact(out)
    except CorruptError:
        if session.force and _is_ours(out):
            return None
        raise
    if artifact.manifest.key == recipe.key:
        return artifact
    if session.force:
        return None
    raise CannotCreateError(
        f"{out} holds another recipe's artifact (key {artifact.manifest.key[7:23]})",
        f"key {recipe.key[7:23]}",
        f"nmtool why {out} tells its recipe; --force replaces it, or choose another -o",
    )


def _check_not_inside(out: Path) -> None:
    """Refuse a place in another artifact: what is put there would make that one corrupt."""
    for parent in out.absolute().parents:
        if is_artifact(parent) and (parent / fmt.TABLE).is_file():
            raise CannotCreateError(f"{out} lies inside the artifact {parent}", "a path outside", "choose another -o")


def _is_ours(out: Path) -> bool:
    """Whether a damaged folder is provably an artifact and holds nothing else: only then may ``--force`` replace it."""
    names = {path.name for path in out.iterdir()}
    if out.is_symlink() or not names <= {"data", fmt.MANIFEST, fmt.TABLE, fmt.README}:
        return False
    readme = out / fmt.README
    return readme.is_file() and b" artifact of nmtool " in readme.read_bytes()[:100]


@contextlib.contextmanager
def _locked(out: Path, session: Session) -> Iterator[None]:
    parent = out.parent
    try:
        parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise CannotCreateError(f"{parent} is no directory", "a folder to put the artifact in") from None
    except FileNotFoundError:  # with its parents, too: a file system that makes no folders
        raise CannotCreateError(
            f"no folder {parent} can be made", "a place for it", "choose another -o or --store"
        ) from None
    folder = _staging_folder(parent)
    lock = folder / f"{out.name}.lock"
    try:
        with advisory_lock(lock, session.lock_wait, out.name):
            try:
                yield
            finally:
                # Safe while the lock is held: a waiter sees that the name is another file, and opens that.
                with contextlib.suppress(OSError):
                    lock.unlink()
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()  # only where nothing is left in it


def _sweep_lock(out: Path) -> None:
    """Remove the lock that a run has left which was killed after its artifact's rename, and an empty staging folder."""
    folder = out.parent / STAGING
    lock = folder / f"{out.name}.lock"
    with contextlib.suppress(OSError, BusyError):  # held: its holder removes it
        if lock.exists():
            with advisory_lock(lock, 0, out.name):
                lock.unlink()
        folder.rmdir()  # only where nothing is left in it


def _staging_folder(parent: Path) -> Path:
    folder = parent / STAGING
    folder.mkdir(exist_ok=True)
    return folder


def _prefix(out: Path, key: str) -> str:
    return f"{out.name}~{key[7:23]}~"


def _create(out: Path, key: str, recipe: Recipe) -> Staging:
    for attempt in range(100):
        folder = _staging_folder(out.parent)
        path = folder / (_prefix(out, key) + secrets.token_hex(16))
        try:
            path.mkdir()
            _put(path, "owner.json", this_process().to_bytes())
        except (FileNotFoundError, BusyError):
            # Another run of this folder just ended and swept the empty staging folder away; or, where locks do not
            # work, one took ours away before it said whose it is (``_clear``).
            time.sleep(0.001 * attempt)
            continue
        _put(path, "recipe.json", fmt.canonical(recipe.to_json()))
        return Staging(path, {}, 0)
    raise CannotCreateError(f"{out.parent / STAGING} keeps vanishing", "a folder that stays")


def _adopt(out: Path, key: str) -> Staging | None:
    """Take over the staging of a provably dead run of the same recipe, by rename: one adopter wins."""
    folder = out.parent / STAGING
    prefix = _prefix(out, key)
    best: Staging | None = None
    for theirs in sorted(folder.glob("*")):
        if not theirs.name.startswith(prefix) or not theirs.is_dir() or is_artifact(theirs):
            continue
        try:
            owner = Owner.from_bytes((theirs / "owner.json").read_bytes())
        except FileNotFoundError:
            _clear(theirs)
            continue
        except OSError:
            continue
        if not is_dead(owner):
            continue
        mine = folder / (prefix + secrets.token_hex(16))
        try:
            # A living owner's name first, so that nobody adopts the folder from us; then the rename, which one wins.
            _put(theirs, "owner.json", this_process().to_bytes())
            theirs.rename(mine)
        except (OSError, BusyError):
            continue  # another adopter was faster
        _put(mine, "owner.json", this_process().to_bytes())
        staging = _reopen(mine)
        if best is None:
            best = staging
        elif len(staging.entries()) > len(best.entries()):
            shutil.rmtree(best.path, ignore_errors=True)
            best = staging
        else:
            shutil.rmtree(mine, ignore_errors=True)
    return best


def _clear(theirs: Path) -> None:
    """Remove what a run left that was killed before it said whose folder it is.

    That needs no proof of its death. Before its owner's name a folder holds nothing but that name, not renamed yet,
    and only these two are removed: where there is more, ``rmdir`` fails, and nothing is lost. A run that lives, and
    only was slow (and locks do not work, or it would hold ours), makes another folder: ``_create``.
    """
    with contextlib.suppress(OSError):
        for stray in theirs.glob("owner.json.*.tmp"):
            stray.unlink(missing_ok=True)
        theirs.rmdir()


def _finish_sealed(out: Path, key: str, recipe: Recipe, session: Session) -> Artifact | None:
    """Publish a staging that a dead run had sealed, and only not renamed yet."""
    folder = out.parent / STAGING
    for theirs in sorted(folder.glob("*")):
        if not theirs.name.startswith(_prefix(out, key)) or not is_artifact(theirs):
            continue
        try:
            # No owner any more: its last step is a rename, which one of the two of us will do.
            with contextlib.suppress(FileNotFoundError):
                if not is_dead(Owner.from_bytes((theirs / "owner.json").read_bytes())):
                    continue
            _remove_private(theirs)
            if open_artifact(theirs).manifest.key == key:
                return _publish(Staging(theirs, {}, 0), out, recipe, session)
        except (NmtoolError, FileNotFoundError):
            continue
    return None


def _reopen(path: Path) -> Staging:
    """Believe of a dead run's folder only what its journal says and the files confirm; remove the rest."""
    for journal in _journals(path):
        *lines, torn = journal.read_bytes().split(b"\n")
        if torn:  # what follows must not be taken for the rest of it
            os.truncate(journal, sum(len(line) + 1 for line in lines))
    done, notes = _journalled(path)
    sizes = dict(walk_data(path))
    for name in list(done):
        if sizes.get(name) != done[name].size:
            del done[name]
    names = sorted(done)
    # A sample is enough to catch a disk that lost what was fsynced; verify --full reads everything.
    for name in {*names[:1], *names[-1:], *([secrets.choice(names)] if names else [])}:
        if sha256((path / name).read_bytes()) != done[name].sha256:
            del done[name]
    for name in sizes:
        if name not in done:
            (path / name).unlink()
    _sweep(path)
    if others := _journals(path)[1:]:  # one journal for all, so that no line of a former rank outlives a later one
        rows = [
            {"path": e.path, "size": e.size, "sha256": e.sha256, "note": notes[e.path]} for e in sorted(done.values())
        ]
        _put(path, _PRIVATE[0], b"".join(fmt.canonical(row) + b"\n" for row in rows))
        for journal in others:
            journal.unlink()
    return Staging(path, done, len(done) + len(list(path.glob("work/*"))), notes)


def _sweep(path: Path) -> None:
    """Remove what a run that was killed within ``_put`` left beside its payload: files that were not renamed yet."""
    for stray in (*path.glob("*.tmp"), *path.glob("work/**/*.tmp")):
        stray.unlink(missing_ok=True)


def _journals(path: Path) -> list[Path]:
    """The journals of a staging folder that are there: its owner's first, then those of other ranks."""
    return [file for file in (path / _PRIVATE[0], *sorted(path.glob("journal-*.jsonl"))) if file.exists()]


def _journalled(path: Path) -> tuple[dict[str, FileEntry], dict[str, str]]:
    """What the journals say: files by path, and the notes on them. A line that is not whole counts for nothing."""
    done: dict[str, FileEntry] = {}
    notes: dict[str, str] = {}
    for journal in _journals(path):
        for line in journal.read_bytes().split(b"\n")[:-1]:
            try:
                row = json.loads(line)
                entry = FileEntry(path=fmt.check_inside(row["path"]), size=row["size"], sha256=row["sha256"])
                notes[entry.path] = row["note"]
            except (ValueError, KeyError, TypeError, NmtoolError):
                continue
            done[entry.path] = entry
    return done, notes


def _commit(
    staging: Staging,
    out: Path,
    recipe: Recipe,
    config: Mapping[str, object],
    summary: Mapping[str, object],
    origin: Mapping[str, object],
    session: Session,
    began: float,
) -> Artifact:
    entries = staging.entries()
    found = dict(walk_data(staging.path))
    if found != {e.path: e.size for e in entries}:
        strange = sorted(set(found) ^ {e.path for e in entries})[:3]
        raise CorruptError(f"the staging folder and its journal differ ({', '.join(strange)})", "", "run it again")
    table = fmt.table_bytes(entries)
    manifest = Manifest(
        kind=recipe.kind,
        key=recipe.key,
        content=sha256(table),
        nmtool=__version__,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        command=session.command,
        config=dict(config),
        inputs=recipe.inputs,
        recipe=recipe.to_json(),
        summary=dict(summary),
        origin=dict(origin),
        made=_made(staging.resumed, time.monotonic() - began),
        files={"count": len(entries), "bytes": sum(e.size for e in entries), "table_sha256": sha256(table)},
    )
    _put(staging.path, fmt.README, fmt.readme_bytes(recipe.kind, __version__))
    _put(staging.path, fmt.TABLE, table)
    _put(staging.path, fmt.MANIFEST, manifest.to_bytes())
    _seal_folder(staging.path)
    return _publish(staging, out, recipe, session)


def _seal_folder(path: Path) -> None:
    """Make the payload read-only and all names durable; then remove what is no part of the artifact, its owner last.

    Whoever is stopped in here leaves a sealed folder with an owner, or one that only lacks its rename: either is
    published as it is by the next run.
    """
    with ThreadPoolExecutor(_SEALING, thread_name_prefix="nmtool-seal") as pool:  # what waits is the disk
        for _ in pool.map(_seal_files, [(Path(folder), files) for folder, _, files in os.walk(path)]):
            pass
    _remove_private(path)
    # Nothing after this: without an owner the folder is whoever's comes first, and only the rename is left to do.


def _seal_files(of: tuple[Path, Sequence[str]]) -> None:
    """Make the files of one folder read-only and their names durable."""
    folder, files = of
    for name in files:
        file = folder / name
        file.chmod(file.stat().st_mode & 0o555)
    fsync_folder(folder)


def _remove_private(path: Path) -> None:
    """Remove what a staging folder holds beside the artifact, its owner last."""
    shutil.rmtree(path / "work", ignore_errors=True)
    for journal in _journals(path):
        journal.unlink(missing_ok=True)
    _sweep(path)
    for name in _PRIVATE:
        (path / name).unlink(missing_ok=True)


def _publish(staging: Staging, out: Path, recipe: Recipe, session: Session) -> Artifact:
    """Rename the staging folder into place; where another run was first, verify theirs and return it."""
    trash: Path | None = None
    if session.force and os.path.lexists(out):
        trash = staging.path.with_name(f"trash~{secrets.token_hex(16)}")
        out.rename(trash)
    try:
        os.rename(staging.path, out)
    except BaseException as error:
        if trash is not None:
            trash.rename(out)
            raise
        # EEXIST, ENOTEMPTY, ENOTDIR; ENOENT: another run published our sealed folder for us
        if not isinstance(error, OSError) or error.errno not in (17, 39, 20, 2):
            raise
        winner = _find(out, recipe, session)
        shutil.rmtree(staging.path, ignore_errors=True)
        if winner is None:
            raise CannotCreateError(f"{out} was taken while working", "a free path") from None
        return winner
    fsync_folder(out)
    fsync_folder(out.parent)
    if trash is not None:
        shutil.rmtree(trash, ignore_errors=True)
    return open_artifact(out)


def _made(resumed: int, seconds: float) -> dict[str, Any]:
    """Which software made it, and how long it took: of what is loaded already, so that nothing is imported for it."""
    versions: dict[str, Any] = {"python": platform.python_version(), "seconds": round(seconds, 3), "resumed": resumed}
    for module in ("numpy", "torch", "timm", "zarr", "sklearn"):
        loaded = sys.modules.get(module)
        if loaded is not None:
            versions[module] = str(getattr(loaded, "__version__", ""))
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "get_num_threads"):
        versions["threads"] = torch.get_num_threads()
    return versions
