"""The same photographs as a folder and as shards give the same keys and contents, through the real command line."""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nmtool.artifact.memo import Memo
from nmtool.data.dataset import Dataset
from nmtool.data.sources import open_dataset

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:webdataset.*")

EXTRACT = ("--untrained", "--image-size", "32", "--batch-size", "16", "--workers", "1", "--device", "cpu")


@pytest.fixture
def photos(real_data: Callable[[str], Path], tmp_path: Path) -> Path:
    """40 photographs of PACS: two domains, two splits, all seven classes."""
    source, out = real_data("pacs") / "pacs", tmp_path / "photos"
    for domain in ("photo", "cartoon"):
        for split, count in (("train", 2), ("test", 1)):
            for folder in sorted((source / domain / split).iterdir()):
                target = out / domain / split / folder.name
                target.mkdir(parents=True)
                for path in sorted(folder.iterdir())[:count]:
                    shutil.copy(path, target / path.name)
    assert len(list(out.rglob("*.jpg"))) == 42
    return out


def members(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.jpg"))


def by_gnu_tar(root: Path, out: Path) -> str:
    """The whole folder, as ``tar`` takes it."""
    subprocess.run(["tar", "-cf", out / "all.tar", "-C", root, "."], check=True)
    return f"wds:{out / 'all.tar'}"


def in_three(root: Path, out: Path) -> str:
    """The files dealt to three shards, and not in order."""
    names = members(root)
    for k in range(3):
        with tarfile.open(out / f"{k:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
            for name in names[k::3][::-1]:
                archive.add(root / name, name)
    return f"wds:{out}/{{000000..000002}}.tar"


def with_numbers(root: Path, out: Path) -> str:
    """Keys with the class folder, and the class number beside each image."""
    names = members(root)
    classes = sorted({name.split("/")[2] for name in names})
    for k in range(2):
        with tarfile.open(out / f"{k}.tar", "w") as archive:
            for name in names[k::2]:
                archive.add(root / name, name)
                body = str(classes.index(name.split("/")[2])).encode()
                info = tarfile.TarInfo(name.removesuffix(".jpg") + ".cls")
                info.size = len(body)
                archive.addfile(info, io.BytesIO(body))
    return f"wds:{out}"


def by_webdataset(root: Path, out: Path) -> str:
    """As WebDataset's own writer shards it."""
    webdataset = pytest.importorskip("webdataset")
    names = members(root)
    classes = sorted({name.split("/")[2] for name in names})
    with webdataset.ShardWriter(f"{out}/part-%04d.tar", maxcount=15, verbose=0) as writer:
        for name in names:
            label = classes.index(name.split("/")[2])
            writer.write({"__key__": name.removesuffix(".jpg"), "jpg": (root / name).read_bytes(), "cls": label})
    return f"wds:{out}/part-{{0000..0002}}.tar"


WAYS = [by_gnu_tar, in_three, with_numbers, by_webdataset]


def everything(data: Dataset) -> dict[str, Any]:
    return {
        split: (list(index.ids), index.labels.values.tolist(), index.labels.classes, index.listing, index.digest)
        for split, index in data.splits.items()
    }


@pytest.mark.parametrize("way", WAYS)
def test_the_index_is_the_folders(photos: Path, tmp_path: Path, way: Callable[[Path, Path], str]) -> None:
    (tmp_path / "shards").mkdir()
    folder = open_dataset(f"folder:{photos}", memo=Memo(None))
    shards = open_dataset(way(photos, tmp_path / "shards"), memo=Memo(None))
    assert everything(shards) == everything(folder)
    assert shards.kind == "images"
    assert (shards.image("photo/train", 3) == folder.image("photo/train", 3)).all()


@pytest.mark.slow
def test_keys_and_contents_are_the_folders(photos: Path, tmp_path: Path, ok: Callable[..., Any]) -> None:
    results = []
    for way in (None, by_gnu_tar, with_numbers, by_webdataset):
        where = tmp_path / (way.__name__ if way else "folder")
        where.mkdir()
        uri = way(photos, where) if way else f"folder:{photos}"
        noise = ok(
            *("inject-noise", uri, "--type", "symmetric", "--ratio", "0.25", "--split", "photo/train"),
            *("-o", where / "labels", "--json"),
        ).json
        features = ok("extract", "timm:test_resnet", uri, *EXTRACT, "-o", where / "features", "--json").json
        results.append([(made["key"], made["content"], made["cached"]) for made in (noise, features)])
    assert results[1:] == results[:1] * 3
    assert not any(cached for made in results for _, _, cached in made)


def test_a_repeated_call_is_a_hit_without_heavy_imports(photos: Path, tmp_path: Path, ok: Callable[..., Any]) -> None:
    (tmp_path / "shards").mkdir()
    uri = in_three(photos, tmp_path / "shards")
    asked = ("inject-noise", uri, "--type", "symmetric", "--ratio", "0.25", "--split", "photo/train")
    assert not ok(*asked, "--json").json["cached"]
    assert ok(*asked, "--json").json["cached"]
    code = (
        "import sys; from nmtool.artifact.memo import Memo; from nmtool.data.sources import open_dataset\n"
        f"open_dataset({uri!r}, memo=Memo(None)).splits['photo/train'].digest\n"
        "print(sorted({'torch', 'torchvision', 'timm', 'zarr', 'sklearn', 'datasets', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_pairs_through_the_command_line(
    tmp_path: Path, real_data: Callable[[str], Path], ok: Callable[..., Any]
) -> None:
    """Flickr8k's photographs and captions, as img2dataset writes shards."""
    source = sorted((real_data("flickr8k") / "flickr8k").rglob("*.jpg"))[:12]
    assert len(source) == 12
    with tarfile.open(tmp_path / "00000.tar", "w") as archive:
        for k, path in enumerate(source):
            archive.add(path, f"{k:09d}.jpg")
            for suffix, body in (("txt", f"caption {k}"), ("json", f'{{"caption": "caption {k}", "key": "{k:09d}"}}')):
                info = tarfile.TarInfo(f"{k:09d}.{suffix}")
                info.size = len(body)
                archive.addfile(info, io.BytesIO(body.encode()))
    made = ok("inject-noise", f"wds:{tmp_path}/00000.tar", "--type", "captions", "--ratio", "0.5", "--json").json
    assert made["n"] == 12
    assert made["flipped"] == 6


def test_hostile_and_missing_shards_end_with_their_codes(tmp_path: Path, nmtool: Callable[..., Any]) -> None:
    with tarfile.open(tmp_path / "bad.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("../evil.jpg"))
    asked = ("--type", "symmetric", "--ratio", "0.2")
    ran = nmtool("inject-noise", f"wds:{tmp_path}/bad.tar", *asked)
    assert ran.code == 65
    assert "'../evil.jpg' in bad.tar leads out" in ran.err
    assert not (tmp_path.parent / "evil.jpg").exists()
    assert nmtool("inject-noise", f"wds:{tmp_path}/{{00..03}}.tar", *asked).code == 66
    assert nmtool("inject-noise", f"wds:{tmp_path}/{{00..}}.tar", *asked).code == 2
