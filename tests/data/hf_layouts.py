"""Writers of the layouts that Hugging Face `datasets` has on disk, with pyarrow alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from nmtool.artifact.memo import Memo
from nmtool.data.dataset import Dataset
from nmtool.data.sources import open_dataset

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
CLASSES = {"_type": "ClassLabel", "names": ["cat", "dog"]}
PICTURES = {"image": {"_type": "Image"}, "label": CLASSES}


def opened(where: object, memo: Memo) -> Dataset:
    return open_dataset(f"hf:{where}", memo=memo)


def save(
    folder: Path, columns: Mapping[str, Any], features: Mapping[str, Any] | None, *, shards: int = 1, batch: int = 2
) -> Path:
    """What ``Dataset.save_to_disk`` writes: Arrow streams, ``batch`` rows a batch, and two files of JSON about them."""
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table(dict(columns))
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    names = [f"data-{k:05d}-of-{shards:05d}.arrow" for k in range(shards)]
    cuts = np.linspace(0, len(table), shards + 1).astype(int).tolist()
    for name, start, stop in zip(names, cuts[:-1], cuts[1:], strict=True):
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.slice(start, stop - start), max_chunksize=batch)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0", "_split": folder.name}
    (folder / "state.json").write_text(json.dumps(state))
    count = {"name": folder.name, "num_examples": len(table)}
    (folder / "dataset_info.json").write_text(json.dumps({"features": features, "splits": {folder.name: count}}))
    return folder


def pictures(tools: Any, *names: str) -> dict[str, Any]:
    """A column of images and one of labels: "cat/1.png" is an image whose file had this name."""
    cells = [{"bytes": image_bytes(tools, name), "path": name.rpartition("/")[2]} for name in names]
    labels = [CLASSES["names"].index(name.split("/")[-2]) for name in names]  # type: ignore[attr-defined]
    return {"image": pa.array(cells, IMAGE), "label": pa.array(labels, pa.int64())}


def image_bytes(tools: Any, name: str) -> bytes:
    return bytes(tools.encoded(tools.picture(sum(map(ord, name)))))


def dataset_dict(root: Path, *splits: str) -> Path:
    (root / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))
    return root


def edit(path: Path, **change: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


def repository(
    root: Path, members: Mapping[str, Mapping[str, Any]], features: Mapping[str, Any] | None = None, group: int = 2
) -> Path:
    for name, columns in members.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        table = pa.table(dict(columns))
        if features is not None:
            table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(table, root / name, row_group_size=group)
    return root


def text(*rows: str) -> dict[str, Any]:
    return {"sentence": list(rows), "label": pa.array([0] * len(rows))}
