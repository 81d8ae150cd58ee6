"""Tar archives as streams: what every writer writes is read, what is hostile or cut is refused by name."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import subprocess
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmtool.data import tars, unpack
from nmtool.data.tars import Reader, index, stream_members
from nmtool.errors import DataError, InputMissingError, NmtoolError, StorageError

FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


def tar_bytes(members: list[tuple[str, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, body in members:
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return out.getvalue()


def one(info: tarfile.TarInfo, body: bytes = b"", form: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive with a good member and then this one."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        good = tarfile.TarInfo("good.txt")
        good.size = 4
        archive.addfile(good, io.BytesIO(b"good"))
        archive.addfile(info, io.BytesIO(body))
    return out.getvalue()


def contents(path: Path) -> dict[str, bytes]:
    """Names and contents through index and reader."""
    found, reader = index(path, path.name), Reader()
    rows = zip(found.names, found.offsets.tolist(), found.sizes.tolist(), strict=True)
    return {name: reader.read(found.archive, offset, size) for name, offset, size in rows}


MEMBERS = [
    ("a.txt", b"alpha"),
    ("empty", b""),
    ("deep/" * 18 + "x.bin", bytes(1000)),
    ("long-" + "n" * 90, b"block" * 103),
    ("cafe/été.txt", "né".encode()),
]


@pytest.mark.parametrize("form", FORMATS)
def test_what_python_writes(tmp_path: Path, form: int) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes(MEMBERS, form))
    assert contents(path) == dict(MEMBERS)
    assert dict(stream_members(path, "a.tar")) == dict(MEMBERS)


@pytest.mark.parametrize("form", ["v7", "ustar", "gnu", "oldgnu", "pax"])
def test_what_gnu_tar_writes(tmp_path: Path, form: str) -> None:
    for name, body in MEMBERS:
        if form == "v7" and len(name) > 99:
            continue
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    (tmp_path / "tree" / "bare").mkdir()
    path = tmp_path / "a.tar"
    subprocess.run(["tar", f"--format={form}", "-cf", path, "-C", tmp_path / "tree", "."], check=True)
    assert contents(path) == dict(MEMBERS)
    assert "bare" in index(path, "a.tar").folders
    assert "deep/deep" in index(path, "a.tar").folders


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names(tmp_path: Path, form: int) -> None:
    name = "/".join(["folder" * 10] * 20) + ".txt"
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes([(name, b"x"), ("b", b"y")], form))
    assert contents(path) == {name: b"x", "b": b"y"}


def test_names_lose_dots_and_doubled_slashes(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes([("./a//b/./c.txt", b"1"), ("./d", b"2")]))
    assert contents(path) == {"a/b/c.txt": b"1", "d": b"2"}


PACKERS: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.mark.parametrize("kind", PACKERS)
def test_compressed_archives_are_streamed_and_not_indexed(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "named-as-if-plain.tar"
    big = os.urandom(3 << 20)
    path.write_bytes(PACKERS[kind](tar_bytes([*MEMBERS, ("big", big), ("after", b"!")])))
    assert dict(stream_members(path, "a")) == {**dict(MEMBERS), "big": big, "after": b"!"}
    assert dict(stream_members(path, "a", wanted=lambda name: name == "after")) == {"after": b"!"}
    with pytest.raises(DataError, match=r"is compressed .*unpack it"):
        index(path, "a")


def test_several_xz_streams_with_padding(tmp_path: Path) -> None:
    path, body = tmp_path / "a.tar.xz", tar_bytes(MEMBERS)
    path.write_bytes(lzma.compress(body[:700]) + bytes(8) + lzma.compress(body[700:]))
    assert dict(stream_members(path, "a")) == dict(MEMBERS)


@pytest.mark.parametrize("kind", PACKERS)
def test_a_cut_or_damaged_compressed_archive(tmp_path: Path, kind: str) -> None:
    path, packed = tmp_path / "a", PACKERS[kind](tar_bytes([("x", os.urandom(20_000)), ("y", b"1")]))
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match=r"can't be unpacked|too early"):
        list(stream_members(path, "a"))
    path.write_bytes(packed[:5000] + bytes([packed[5000] ^ 255]) + packed[5001:])
    with pytest.raises(DataError):
        list(stream_members(path, "a"))


@pytest.mark.parametrize("kind", PACKERS)
def test_a_bomb_is_stopped(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "ALLOWANCE", 1 << 20)
    monkeypatch.setattr(unpack, "RATIO", 100)
    path = tmp_path / "a"
    path.write_bytes(PACKERS[kind](tar_bytes([("zeros", bytes(32 << 20)), ("after", b"1")])))
    with pytest.raises(DataError, match="far more"):
        list(stream_members(path, "a", wanted=lambda name: name == "after"))


def test_xz_that_asks_for_much_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "MEMORY_BYTES", 1 << 20)
    path = tmp_path / "a"
    path.write_bytes(lzma.compress(tar_bytes(MEMBERS), preset=6))
    with pytest.raises(DataError, match=r"can't be unpacked"):
        list(stream_members(path, "a"))


def test_a_member_over_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(tar_bytes([("small", b"1"), ("large", bytes(100))]))
    with pytest.raises(DataError, match=r"'large' in a has 100 bytes"):
        list(stream_members(path, "a", member_bytes=99))


def special(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


HOSTILE = {
    "absolute": (special("/etc/evil.jpg", tarfile.REGTYPE), "leads out"),
    "climbing": (special("a/../../evil.jpg", tarfile.REGTYPE), "leads out"),
    "only dots": (special("..", tarfile.REGTYPE), "leads out"),
    "climbing folder": (special("../evil.jpg", tarfile.DIRTYPE), "leads out"),
    "symbolic link": (special("evil.jpg", tarfile.SYMTYPE, "/etc/passwd"), "symbolic link"),
    "hard link": (special("evil.jpg", tarfile.LNKTYPE, "good.txt"), "hard link"),
    "device": (special("evil.jpg", tarfile.CHRTYPE), "device"),
    "block device": (special("evil.jpg", tarfile.BLKTYPE), "device"),
    "pipe": (special("evil.jpg", tarfile.FIFOTYPE), "pipe"),
    "sparse": (special("evil.jpg", tarfile.GNUTYPE_SPARSE), "sparse"),
    "unknown": (special("evil.jpg", b"Z"), "of type"),
    "long": (special("evil.jpg" * 600, tarfile.REGTYPE), "4800|4804|header"),
}


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_members_are_refused_by_name(
    tmp_path: Path, what: str, form: int, tools: Any, nmtool: Callable[..., Any]
) -> None:
    info, said = HOSTILE[what]
    folder = tmp_path / "data" / "inner"
    folder.mkdir(parents=True)
    path = folder / "bad.tar"
    path.write_bytes(one(info, form=form))
    before = tools.snapshot(tmp_path)
    for read in (index, lambda *a: list(stream_members(*a))):
        with pytest.raises(DataError, match=said) as caught:
            read(path, "bad.tar")
        assert "bad.tar" in str(caught.value)
        assert "evil.jpg" in str(caught.value) or what in ("only dots", "long")
    if what in ("climbing", "symbolic link"):
        ran = nmtool("inject-noise", f"wds:{path}", "--type", "symmetric", "--ratio", "0.2", cwd=tmp_path)
        assert ran.code == 65
        assert "evil.jpg" in ran.err
        assert "Traceback" not in ran.err
    assert tools.snapshot(tmp_path) == before


def test_a_name_twice(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes([("x/a", b"1"), ("./x//a", b"2")]))
    with pytest.raises(DataError, match=r"'x/a' stands twice in a\.tar"):
        index(path, "a.tar")


def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, errors="surrogateescape") as archive:
        archive.addfile(tarfile.TarInfo("a\udcff.jpg"))
    with pytest.raises(DataError, match=r"xff\.jpg' in a\.tar is no UTF-8"):
        index(path, "a.tar")


def pax(**headers: str) -> bytes:
    info = tarfile.TarInfo("evil.jpg")
    info.size = 600
    info.pax_headers = {key.replace("__", "."): value for key, value in headers.items()}
    return one(info, bytes(600))


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (pax(size="10"), "two sizes"),
        (pax(size="-1"), "two sizes"),
        (pax(size=str(10**15)), "too early"),
        (pax(path="../evil.jpg"), "leads out"),
        (pax(path="/evil.jpg"), "leads out"),
        (pax(path="evil\0.jpg"), "NUL"),
        (pax(GNU__sparse__major="1", GNU__sparse__name="evil.jpg"), "sparse"),
    ],
)
def test_pax_headers_that_lie(tmp_path: Path, body: bytes, said: str) -> None:
    (tmp_path / "a.tar").write_bytes(body)
    with pytest.raises(DataError, match=said) as caught:
        index(tmp_path / "a.tar", "a.tar")
    assert "evil" in str(caught.value)


def test_a_pax_record_of_the_wrong_length(tmp_path: Path) -> None:
    body = pax(comment="hello there")
    at = body.index(b" comment=")
    for digits in (b"99", b"01", b"xx", b"00"):
        (tmp_path / "a.tar").write_bytes(body[: at - 2] + digits + body[at:])
        with pytest.raises(DataError, match="pax header"):
            index(tmp_path / "a.tar", "a.tar")


def test_a_global_header_is_passed_over_unless_it_names_members(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    for headers, fine in (({"comment": "as git writes it"}, True), ({"path": "evil"}, False)):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers=headers) as archive:
            archive.addfile(tarfile.TarInfo("a.jpg"))
        path.write_bytes(out.getvalue())
        if fine:
            assert index(path, "a.tar").names == ("a.jpg",)
        else:
            with pytest.raises(DataError, match="global header"):
                index(path, "a.tar")


def test_every_cut_is_noticed(tmp_path: Path) -> None:
    """Also one between two members, which most readers take for the archive's end."""
    body = tar_bytes([("a", bytes(700)), ("b", b"1")], tarfile.USTAR_FORMAT)
    end = 512 + 1024 + 512 + 512
    path = tmp_path / "a.tar"
    for size in (0, 100, 512, 1000, 1536, 2048, 2049, end):
        path.write_bytes(body[:size])
        with pytest.raises(DataError):
            index(path, "a.tar")
        with pytest.raises(DataError):
            list(stream_members(path, "a.tar"))
    path.write_bytes(body[: end + 512])
    assert index(path, "a.tar").names == ("a", "b")


def test_what_follows_the_end_is_refused(tmp_path: Path) -> None:
    body = tar_bytes([("a", b"1")])
    for tail in (b"garbage", tar_bytes([("b", b"2")])):
        (tmp_path / "a.tar").write_bytes(body + tail)
        with pytest.raises(DataError, match="goes on after its end"):
            index(tmp_path / "a.tar", "a.tar")
    (tmp_path / "a.tar").write_bytes(body + bytes(3 << 20))
    assert index(tmp_path / "a.tar", "a.tar").names == ("a",)


def test_no_archive(tmp_path: Path) -> None:
    with pytest.raises(InputMissingError):
        index(tmp_path / "a.tar", "a.tar")
    (tmp_path / "a.tar").write_bytes(b"PK\3\4" + bytes(600))
    with pytest.raises(DataError, match="no tar archive"):
        index(tmp_path / "a.tar", "a.tar")
    with pytest.raises(DataError, match="no file"):
        index(tmp_path, "folder")
    with pytest.raises(DataError, match="no file"):
        index(Path("/dev/zero"), "zero")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="no file"):
        index(tmp_path / "pipe", "pipe")


def test_an_archive_without_members(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(bytes(10240))
    assert index(tmp_path / "a.tar", "a.tar").names == ()


def test_a_large_size_in_base_256(tmp_path: Path) -> None:
    """A member over 8 GiB, in a file with a hole."""
    info = tarfile.TarInfo("large")
    info.size = 9 << 30
    path = tmp_path / "a.tar"
    with path.open("wb") as stream:
        stream.write(info.tobuf(tarfile.GNU_FORMAT))
        stream.seek(512 + info.size)
        stream.write(tar_bytes([("after", b"1")]))
    assert contents_of(path, "after") == b"1"


def contents_of(path: Path, name: str) -> bytes:
    found = index(path, path.name)
    row = found.names.index(name)
    return Reader().read(found.archive, int(found.offsets[row]), int(found.sizes[row]))


def test_a_change_after_indexing_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes([("a", b"first")]))
    found, reader = index(path, "a.tar"), Reader()
    assert reader.read(found.archive, int(found.offsets[0]), 5) == b"first"
    with path.open("rb+") as stream:
        stream.seek(int(found.offsets[0]))
        stream.write(b"other")
    for again in (reader, Reader()):
        with pytest.raises(StorageError, match="changed"):
            again.read(found.archive, int(found.offsets[0]), 5)
        with pytest.raises(StorageError, match="changed"):
            again.digest(found.archive, int(found.offsets[0]), 5)
    path.unlink()
    with pytest.raises(StorageError, match="changed"):
        Reader().read(found.archive, int(found.offsets[0]), 5)


def test_readers_hold_few_files_among_threads(tmp_path: Path) -> None:
    archives = []
    for k in range(12):
        path = tmp_path / f"{k}.tar"
        path.write_bytes(tar_bytes([("a", bytes([k]) * 100)]))
        archives.append(index(path, path.name))
    reader, wrong = Reader(keep=3), []
    before = len(os.listdir("/proc/self/fd"))

    def work(seed: int) -> None:
        for step in range(300):
            k = (seed * 7 + step * 5) % 12
            found = archives[k]
            if reader.read(found.archive, int(found.offsets[0]), 100) != bytes([k]) * 100:
                wrong.append(k)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(os.listdir("/proc/self/fd")) <= before + 3


@settings(max_examples=150, deadline=None)
@given(
    names=st.lists(st.text("ab./é", min_size=1, max_size=12), min_size=1, max_size=4),
    at=st.integers(0, 4000),
    byte=st.integers(0, 255),
    form=st.sampled_from(FORMATS),
)
def test_any_damage_is_a_value_or_an_error_of_ours(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], at: int, byte: int, form: int
) -> None:
    body = bytearray(tar_bytes([(name, name.encode() * 50) for name in names], form))
    body[at % len(body)] = byte
    path = tmp_path_factory.getbasetemp() / "fuzz.tar"
    path.write_bytes(body)
    try:
        found = index(path, "fuzz.tar")
    except NmtoolError:
        return
    assert all(not name.startswith("/") and ".." not in name.split("/") for name in found.names)
    assert ((found.offsets + found.sizes) <= len(body)).all()
    assert len(set(found.names)) == len(found.names)


def test_too_many_members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nmtool.data.tarheaders.MAX_MEMBERS", 3)
    (tmp_path / "a.tar").write_bytes(tar_bytes([(str(k), b"") for k in range(4)]))
    with pytest.raises(DataError, match="over 3 members"):
        tars.index(tmp_path / "a.tar", "a.tar")
