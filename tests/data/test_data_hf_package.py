"""``hf:`` against the package ``datasets`` itself: what it saves, uploads and caches of real data, and its own reading.

An independent check: rows, labels and bytes as ``datasets`` gives them are compared with what nmtool reads without it.
"""

from __future__ import annotations

import csv
import json
import shutil
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nmtool.artifact.memo import Memo
from nmtool.data.dataset import Dataset
from nmtool.data.sources import open_dataset

with warnings.catch_warnings():  # its imports' own deprecations
    warnings.simplefilter("ignore")
    datasets = pytest.importorskip("datasets")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

Unpack = Callable[[str], Path]
CLASSES = ("dog", "giraffe", "house")


@pytest.fixture(scope="module")
def photos(real_data: Unpack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten photographs of each of three classes of PACS, in train and in test."""
    root = tmp_path_factory.mktemp("photos") / "photos"
    for split in ("train", "test"):
        for name in CLASSES:
            paths = sorted((real_data("pacs") / "pacs" / "photo" / split / name).glob("*.jpg"))[:10]
            assert len(paths) == 10
            (root / split / name).mkdir(parents=True)
            for path in paths:
                shutil.copy(path, root / split / name)
    return root


@pytest.fixture(scope="module")
def loaded(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The photographs as ``datasets`` reads them."""
    return datasets.load_dataset("imagefolder", data_dir=str(photos), cache_dir=str(tmp_path_factory.mktemp("cache")))


def opened(uri: str) -> Dataset:
    return open_dataset(uri, memo=Memo(None))


def raw(dataset: Any) -> Any:
    """Rows with images as bytes and path."""
    return dataset.cast_column("image", datasets.Image(decode=False))


def upload(dataset: Any, path: Path) -> None:
    """A Parquet shard as ``push_to_hub`` makes it: the images' bytes embedded, only the last part of paths kept."""
    table = datasets.table.embed_table_storage(dataset.with_format("arrow")[:])
    path.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset(table, info=dataset.info).to_parquet(str(path))


@pytest.mark.parametrize("shards", [1, 3])
def test_a_folder_saved_by_datasets_is_the_folder(photos: Path, loaded: Any, tmp_path: Path, shards: int) -> None:
    loaded.save_to_disk(str(tmp_path / "saved"), num_shards=dict.fromkeys(loaded, shards))
    for split, dataset in loaded.items():
        for k in range(shards):
            shard = dataset.shard(shards, k, contiguous=True)
            upload(shard, tmp_path / "repo" / "data" / f"{split}-{k:05d}-of-{shards:05d}.parquet")
    folder = opened(f"folder:{photos}")
    for name in ("saved", "repo"):
        data = opened(f"hf:{tmp_path / name}")
        assert data.classes == folder.classes == CLASSES
        for split, index in folder.splits.items():
            mine = data.splits[split]
            assert list(mine.ids) == list(index.ids)
            assert (mine.listing, mine.digest) == (index.listing, index.digest)
        assert np.array_equal(data.image("train", 7), folder.image("train", 7))


def test_rows_are_those_that_datasets_reads(loaded: Any, tmp_path: Path) -> None:
    loaded.save_to_disk(str(tmp_path / "saved"))
    theirs, data = datasets.load_from_disk(str(tmp_path / "saved")), opened(f"hf:{tmp_path / 'saved'}")
    for split, dataset in theirs.items():
        names = dataset.features["label"].names
        rows = {f"{split}/{names[row['label']]}/{row['image']['path']}": row for row in raw(dataset)}
        assert sorted(rows) == list(data.splits[split].ids)
        plain = {f"{split}/{names[row['label']]}/{Path(path).name}": row["image"]
                 for row, path in zip(dataset, [r["image"]["path"] for r in raw(dataset)], strict=True)}  # fmt: skip
        for k, sample in enumerate(data.splits[split].ids):
            assert data.splits[split].labels.values[k] == rows[sample]["label"]
            assert np.array_equal(data.image(split, k), np.asarray(plain[sample].convert("RGB")))


def test_shuffled_and_selected_rows(loaded: Any, tmp_path: Path) -> None:
    some = loaded["train"].shuffle(seed=3).select(range(12))
    some.save_to_disk(str(tmp_path / "some"))
    data = opened(f"hf:{tmp_path / 'some'}")
    names = some.features["label"].names
    wanted = sorted(f"{names[row['label']]}/{Path(row['image']['path']).name}" for row in raw(some))
    assert list(data.splits["train"].ids) == wanted
    assert "12 rows, and its info counts 30" in data.remarks[0]


def test_noise_and_features_have_the_folders_keys(
    photos: Path, loaded: Any, tmp_path: Path, ok: Callable[..., Any]
) -> None:
    loaded.save_to_disk(str(tmp_path / "saved"))
    both = [f"folder:{photos}", f"hf:{tmp_path / 'saved'}"]
    args = ("--type", "symmetric", "--ratio", "0.3", "--json", "-o")
    one, other = [ok("inject-noise", uri, *args, tmp_path / f"noise{k}").json for k, uri in enumerate(both)]
    assert (one["key"], one["content"]) == (other["key"], other["content"])
    args = ("--untrained", "--image-size", "32", "--device", "cpu", "--workers", "1", "--json", "-o")
    one, other = [
        ok("extract", "timm:test_resnet", uri, *args, tmp_path / f"features{k}").json for k, uri in enumerate(both)
    ]
    assert (one["key"], one["content"]) == (other["key"], other["content"])


def test_cifar_10_as_the_hub_has_it(real_data: Unpack, tmp_path: Path) -> None:
    """PNG bytes without paths, a ClassLabel whose names are not in alphabetical order."""
    arrays = np.load(real_data("cifar10") / "cifar10.npz")
    names = ["truck", *sorted(set(arrays["classes"].tolist()) - {"truck"})]
    number = [names.index(name) for name in arrays["classes"].tolist()]
    labels = [number[label] for label in arrays["y_train"][:60].tolist()]
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    data = datasets.Dataset.from_dict({"img": list(arrays["X_train"][:60]), "label": labels}, features=features)
    data.to_parquet(str(tmp_path / "plain_text" / "train-00000-of-00001.parquet"), batch_size=16)
    mine = opened(f"hf:{tmp_path}")
    assert mine.classes == tuple(names)
    assert mine.splits["train"].labels.values.tolist() == labels
    assert list(mine.splits["train"].ids)[-1] == "train/000059"
    for row in (0, 17, 59):
        assert np.array_equal(mine.image("train", row), arrays["X_train"][row])


def rows_of(path: Path, n: int = 300) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE))[:n]


@pytest.mark.parametrize("task", ["cola", "rte", "stsb"])
def test_glue_as_datasets_and_as_tables(real_data: Unpack, tmp_path: Path, task: str) -> None:
    texts = ["sentence"] if task == "cola" else ["sentence1", "sentence2"]
    label = "score" if task == "stsb" else "label"
    made: dict[str, Any] = {}
    for split, name in {"train": "train", "validation": "dev"}.items():
        rows = rows_of(real_data("text") / "text" / task / f"{name}.tsv")
        columns: dict[str, Any] = {text: [row[text] for row in rows] for text in texts}
        columns["label"] = [float(r[label]) if task == "stsb" else r[label] for r in rows]
        (tmp_path / f"{split}.tsv").write_text(
            "\n".join("\t".join(cells) for cells in [[*texts, "label"], *zip(*([r[t] for r in rows] for t in texts),
                                                                              [r[label] for r in rows], strict=True)]),
            encoding="utf-8",
        )  # fmt: skip
        made[split] = datasets.Dataset.from_dict(columns)
        if task != "stsb":
            made[split] = made[split].class_encode_column("label")
    datasets.DatasetDict(made).save_to_disk(str(tmp_path / "saved"))
    theirs, data = datasets.load_from_disk(str(tmp_path / "saved")), opened(f"hf:{tmp_path / 'saved'}")
    assert data.kind == "text"
    for split, dataset in theirs.items():
        assert len(data.splits[split]) == len(dataset) > 200
        for row, theirs_row in enumerate(dataset):
            assert data.text(split, row) == tuple(theirs_row[text] for text in texts)
        if task == "stsb":
            found = data.targets(split)
            assert found is not None
            assert found.tolist() == dataset["label"][:]
        else:
            assert data.splits[split].labels.values.tolist() == dataset["label"][:]
            assert data.classes == tuple(dataset.features["label"].names)
    files = ",".join(f"{split}={tmp_path / split}.tsv" for split in made)
    pair = "&text_b=sentence2" if len(texts) > 1 else ""
    table = opened(f"table:{files}?text={texts[0]}{pair}")
    for split in made:
        assert list(table.splits[split].ids) == list(data.splits[split].ids)
        if task != "cola":  # whose names are "0" and "1" here, and numbers there: the same
            assert table.splits[split].digest == data.splits[split].digest


# By name: from the library's cache, or not at all


@pytest.fixture
def hub(tmp_path: Path, real_data: Unpack) -> Path:
    """A cache as ``load_dataset("nyu-mll/glue", "cola")`` leaves it, made by the library from local files."""
    rows = rows_of(real_data("text") / "text" / "cola" / "dev.tsv", 40)
    source, home = tmp_path / "source", tmp_path / "hf"
    features = datasets.Features(
        {"sentence": datasets.Value("string"), "label": datasets.ClassLabel(names=["unacceptable", "acceptable"])}
    )
    for split, part in {"train": rows[:30], "validation": rows[30:]}.items():
        columns = {"sentence": [row["sentence"] for row in part], "label": [int(row["label"]) for row in part]}
        datasets.Dataset.from_dict(columns, features=features).to_parquet(
            str(source / f"{split}-00000-of-00001.parquet")
        )
    loaded = datasets.load_dataset("parquet", data_dir=str(source), cache_dir=str(tmp_path / "made"))
    made = Path(loaded["train"].cache_files[0]["filename"]).parent
    place = home / "datasets" / "nyu-mll___glue" / "cola" / "0.0.0" / ("ab" * 20)
    shutil.copytree(made, place)
    for path in place.glob("parquet-*.arrow"):
        path.rename(path.with_name(path.name.replace("parquet-", "glue-", 1)))
    info = json.loads((place / "dataset_info.json").read_text())
    info.update(dataset_name="glue", config_name="cola", builder_name="parquet")
    for split in info["splits"].values():
        split["dataset_name"] = "glue"
    (place / "dataset_info.json").write_text(json.dumps(info))
    return home


def test_a_name_is_found_in_the_cache(hub: Path, ok: Callable[..., Any], nmtool: Callable[..., Any]) -> None:
    env = {"HF_HOME": str(hub), "HF_HUB_OFFLINE": "1"}
    args = ("--type", "symmetric", "--ratio", "0.2", "--json", "-o")
    first = ok("inject-noise", "hf:nyu-mll/glue/cola", *args, hub.parent / "a", env=env).json
    assert (first["n"], first["cached"]) == (30, False)
    (place,) = hub.glob("datasets/*/*/*/*/")
    again = ok("inject-noise", f"hf:{place}", *args, hub.parent / "b", env=env).json
    assert again["content"] == first["content"]
    # a hit: the name is remembered, and the package not wanted
    broken = hub.parent / "broken" / "datasets"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise RuntimeError('imported')")
    hidden = {**env, "PYTHONPATH": str(broken.parent)}
    hit = ok("inject-noise", "hf:nyu-mll/glue/cola", *args, hub.parent / "a", env=hidden).json
    assert (hit["key"], hit["cached"]) == (first["key"], True)
    ran = nmtool("inject-noise", "hf:nyu-mll/glue/mrpc", *args, hub.parent / "c", env=env)
    assert ran.code == 69
    assert "cola" in ran.err


@pytest.mark.parametrize("offline", ["1", "0"])
def test_an_unreachable_hub_is_said_at_once(nmtool: Callable[..., Any], tmp_path: Path, offline: str) -> None:
    """Port 9 of this machine: nobody listens, so the library would go on asking for most of a minute."""
    env = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": offline, "HF_ENDPOINT": "http://127.0.0.1:9"}
    start = time.monotonic()
    ran = nmtool("inject-noise", "hf:glue/cola", "--type", "symmetric", "--ratio", "0.2", env=env)
    assert ran.code == 69
    assert str(tmp_path / "hf" / "datasets") in ran.err
    assert "glue" in ran.err
    assert "Traceback" not in ran.err
    assert ran.out == ""
    assert time.monotonic() - start < 20
    assert len(ran.err.splitlines()) == 1


def test_without_the_package_a_name_can_not_be_had(nmtool: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "none" / "datasets").mkdir(parents=True)
    (tmp_path / "none" / "datasets" / "__init__.py").write_text("raise ImportError('no')")
    env = {"PYTHONPATH": str(tmp_path / "none")}
    ran = nmtool("inject-noise", "hf:glue/cola", "--type", "symmetric", "--ratio", "0.2", env=env)
    assert ran.code == 69
    assert "pip install 'nmtool[hf]'" in ran.err


@pytest.mark.parametrize(
    ("name", "code"), [("csv", 2), ("pandas", 2), ("a//b", 2), ("a/b/c/d", 2), ("a b", 2), ("", 2)]
)
def test_names_that_are_none(nmtool: Callable[..., Any], name: str, code: int) -> None:
    ran = nmtool("inject-noise", f"hf:{name}", "--type", "symmetric", "--ratio", "0.2")
    assert ran.code == code
    assert "Traceback" not in ran.err
