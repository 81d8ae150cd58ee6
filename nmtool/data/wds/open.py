"""``wds:``: samples in tar archives, as WebDataset writes them, read in place.

``wds:DIR/{000000..000127}.tar``, ``wds:train=DIR/train-{000..003}.tar,test=DIR/test-000.tar``, a folder of shards, one
shard, a ``*``; missing shards are an error. A sample is the members of one key (see ``shards``): an image with a label
(``cls``, or ``label``, ``cls`` or ``class`` in ``json``, else the folder it is in), an image with a caption (``txt``,
``caption`` or ``caption`` in ``json``), or a text (``txt`` alone). Options, after ``?``:

- ``image=SUFFIX``, ``label=SUFFIX`` or ``json:KEY``, ``caption=SUFFIX`` or ``json:KEY``: which part is what;
- ``as=folder``: every image file is a sample and nothing else is looked at, as ``folder:`` reads what was archived;
- ``classes=FILE``: class names in the order of the numbers; else ``classes.txt``, ``classes.json`` or
  ``classnames.txt`` beside the shards, else the folders in the keys where they fit the numbers one to one;
- ``split=NAME``: the split of all shards; else a shard called ``train-…`` or ``val_…`` says it, else the keys, else the
  folder that the shard lies in, where that is called ``train``, ``test`` ….

Sample ids are the images' names in the archive, so that an archive of a folder has the folder's ids, labels, classes
and digests. Shards are indexed once, in order of their names; row order never depends on the order in an archive.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nmtool.artifact.format import canonical, sha256
from nmtool.artifact.memo import Memo
from nmtool.data import files
from nmtool.data.dataset import Dataset, Indexed
from nmtool.data.images import FILE_BYTES, BrokenSample, decode
from nmtool.data.index import combined, make_splits
from nmtool.data.tars import Archive, Reader
from nmtool.data.wds.classnames import class_names
from nmtool.data.wds.labels import Samples, Sorting, check_options, sort_out
from nmtool.data.wds.shardlist import Address, parse
from nmtool.data.wds.shards import Listing, Parts, listing
from nmtool.data.wds.texts import TEXT_BYTES, text_of
from nmtool.errors import DataError
from nmtool.records import Int, SampleIndex


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rows:
    """Where the rows of a split are: which shard, int64 [n]; places int64 [n, 4] and is_json [n] as in ``Listing``."""

    shard: Int
    places: Int
    is_json: Int


class _Members:
    """The bytes of samples, read in place. Safe among threads."""

    def __init__(self, archives: Sequence[Archive], caption: str) -> None:
        self._archives, self._reader = archives, Reader()
        self._key = caption.partition(":")[2] or "caption"

    def image(self, rows: _Rows, row: int, name: str) -> bytes:
        """The image file's bytes."""
        offset, size = rows.places[row, :2].tolist()
        if size > FILE_BYTES:
            raise BrokenSample(f"{name} has {size} bytes", f"an image file of at most {FILE_BYTES}")
        return self._reader.read(self._archives[rows.shard[row]], offset, size)

    def text(self, rows: _Rows, row: int, name: str) -> str:
        """The caption, or the text."""
        archive = self._archives[rows.shard[row]]
        offset, size = rows.places[row, 2:].tolist()
        what = f"the text of {name!r} in {archive.name}"
        if size > TEXT_BYTES:
            raise DataError(f"{what} has {size} bytes", f"at most {TEXT_BYTES}")
        return text_of(self._reader.read(archive, offset, size), self._key if rows.is_json[row] else "", what)

    def contents(self, kind: str, rows: _Rows, ids: Sequence[str]) -> list[str]:
        """Hex digests of all rows; read in the order in which they lie in the shards."""
        digests = [""] * len(ids)
        first = rows.places[:, 2 if kind == "text" else 0]
        for row in np.lexsort((first, rows.shard)).tolist():
            parts = []
            if kind != "text":
                offset, size = rows.places[row, :2].tolist()
                parts.append(self._reader.digest(self._archives[rows.shard[row]], offset, size))
            if kind != "images":
                parts.append(self.text(rows, row, ids[row]))
            digests[row] = parts[0] if kind == "images" else combined(*parts)
        return digests


class _WdsDataset(Indexed):
    """Samples by their place in a shard; a shard that is no longer the one indexed is an error."""

    def __init__(
        self,
        *,
        uri: str,
        kind: str,
        splits: dict[str, SampleIndex],
        classes: tuple[str, ...],
        left_out: Mapping[str, int],
        remarks: Sequence[str],
        rows: Mapping[str, _Rows],
        members: _Members,
    ) -> None:
        super().__init__(uri=uri, kind=kind, splits=splits, classes=classes, left_out=dict(left_out), remarks=remarks)
        self._rows, self._members = rows, members

    def image(self, split: str, row: int) -> npt.NDArray[np.uint8]:
        """Sample ``row`` as RGB uint8 [H, W, 3]; see ``Dataset.image``."""
        if self.kind == "text":
            self._refuse("images")
        name = self.splits[split].ids[row]
        return decode(self._members.image(self._rows[split], row, name), name=name)

    def caption(self, split: str, row: int) -> str:
        """The caption of sample ``row``."""
        if self.kind != "captions":
            return super().caption(split, row)
        return self._members.text(self._rows[split], row, self.splits[split].ids[row])

    def text(self, split: str, row: int) -> tuple[str, ...]:
        """The text of sample ``row``, a tuple of one."""
        if self.kind != "text":
            return super().text(split, row)
        return (self._members.text(self._rows[split], row, self.splits[split].ids[row]),)


def open_wds(where: str, *, uri: str, memo: Memo) -> Dataset:
    """Index the shards ``where``.

    Raises:
        UsageError: the URI can't be understood.
        InputMissingError: shards, or the file of class names, are not there.
        DataError: an archive that is damaged, cut, compressed or holds what is refused; samples that can't be told
            apart; a sample in two shards; labels that can't be read; no sample at all.
        StorageError: a shard changed while it was being indexed.
    """
    address = parse(where, uri)
    options = address.options
    check_options(options, uri)
    parts = Parts(
        image=options.get("image", "").lower(),
        label=options.get("label", ""),
        caption=options.get("caption", ""),
        as_folder="as" in options,
    )
    found = [listing(shard, parts, memo) for shard in address.shards]
    named, beside = class_names(options.get("classes", ""), address.shards)
    kind, kept, without = _kind(found, parts, uri)
    samples = _samples(address, found, kept, kind, uri)
    sorting = sort_out(samples, named, beside)
    members = _Members([each.archive for each in found], parts.caption)
    ids, labels, rows = _arranged(samples, sorting, found, kept, parts.as_folder)
    splits = make_splits(
        kind=kind,
        classes=sorting.classes,
        rows={split: (ids[split], labels[split]) for split in ids},
        contents=lambda split: members.contents(kind, rows[split], splits[split].ids),
        memo=memo,
        question=_question(address, found, sorting.classes),
        trusted=files.settled(files.stacked([each.archive.identity for each in found])),
    )
    left_out = {reason: sum(each.left_out[reason] for each in found) for reason in ("hidden", "other")}
    return _WdsDataset(
        uri=uri,
        kind=kind,
        splits=splits,
        classes=sorting.classes,
        left_out={**left_out, "no image": without},
        remarks=_remarks(uri, without, len(samples.ids)),
        rows=rows,
        members=members,
    )


def _question(address: Address, found: Sequence[Listing], classes: Sequence[str]) -> object:
    """What changes whenever a sample may have: the shards' identities, how they are read, and the class names."""
    shards = [
        [shard.split, shard.said, os.fsencode(shard.path).hex(), list(each.archive.identity)]
        for shard, each in zip(address.shards, found, strict=True)
    ]
    return ["wds", shards, sorted(address.options.items()), sha256(canonical(list(classes)))]


def _kind(found: Sequence[Listing], parts: Parts, uri: str) -> tuple[str, list[npt.NDArray[np.intp]], int]:
    """What the samples are, which rows of each shard are such, and how many have no image where others do."""
    images = [np.flatnonzero(each.places[:, 0] >= 0) for each in found]
    n, all_rows = sum(len(rows) for rows in images), sum(len(each.ids) for each in found)
    if not n and parts.image:
        raise DataError(f"no sample in {uri} has the image part {parts.image!r}", "a suffix that is there")
    if not all_rows or (not n and parts.as_folder):
        out = ", ".join(f"{sum(e.left_out[r] for e in found)} {r}" for r in ("hidden", "other"))
        raise DataError(f"no sample in {uri} (members left out: {out})", "images or texts, named KEY.jpg, KEY.cls …")
    kept = images if n else [np.arange(len(each.ids)) for each in found]
    cells = sum(each.cells[row] is not None for each, rows in zip(found, kept, strict=True) for row in rows.tolist())
    if parts.label and not cells:
        raise DataError(
            f"no sample in {uri} has a label {parts.label!r}", "a part or key that is there", "mend ?label="
        )
    if not n:
        return "text", kept, 0
    texts = [each.places[rows, 2] >= 0 for each, rows in zip(found, images, strict=True)]
    count = sum(int(each.sum()) for each in texts)
    if cells or parts.label or not (count or parts.caption):
        return "images", images, all_rows - n
    if count < n:
        shard = next(k for k, each in enumerate(texts) if not each.all())
        first = found[shard].ids[images[shard][int(np.argmin(texts[shard]))]]
        raise DataError(
            f"{n - count} of {n} images of {uri} have no caption (the first is {first!r})",
            "a caption for each, or labels",
            "add them; or write ?as=folder for images without captions",
        )
    return "captions", images, all_rows - n


def _samples(
    address: Address, found: Sequence[Listing], kept: Sequence[npt.NDArray[np.intp]], kind: str, uri: str
) -> Samples:
    pairs = list(zip(found, kept, strict=True))
    return Samples(
        ids=[each.ids[row] for each, rows in pairs for row in rows.tolist()],
        cells=[each.cells[row] for each, rows in pairs for row in rows.tolist()],
        shard=np.repeat(np.arange(len(found)), [len(rows) for rows in kept]),
        shards=address.shards,
        folders=frozenset().union(*(each.folders for each in found)),
        kind=kind,
        uri=uri,
    )


def _arranged(
    samples: Samples,
    sorting: Sorting,
    found: Sequence[Listing],
    kept: Sequence[npt.NDArray[np.intp]],
    as_folder: bool,
) -> tuple[dict[str, list[str]], dict[str, Int], dict[str, _Rows]]:
    """Ids, labels and places of each split, in the order of the ids."""
    places = np.concatenate([each.places[rows] for each, rows in zip(found, kept, strict=True)])
    is_json = np.concatenate([each.is_json[rows] for each, rows in zip(found, kept, strict=True)])
    ids, labels, rows = {}, {}, {}
    for code, split in enumerate(sorting.splits):
        at = _order(samples, np.flatnonzero(sorting.split == code), as_folder or samples.kind == "text")
        ids[split] = [samples.ids[k] for k in at.tolist()]
        labels[split] = sorting.labels[at]
        rows[split] = _Rows(shard=samples.shard[at], places=places[at], is_json=is_json[at])
    return ids, labels, rows


def _order(samples: Samples, at: Int, whole: bool) -> Int:
    """The rows ``at`` in the order of their ids; raises ``DataError`` for two with one key, which may be the id."""
    ids = samples.ids
    rows = at.tolist()
    if any(ids[a] >= ids[b] for a, b in itertools.pairwise(rows)):  # by code point: the order of the UTF-8 bytes
        rows.sort(key=ids.__getitem__)
    # Hashes, and not the keys: of ten million samples there would be gigabytes.
    hashes = np.fromiter((hash(ids[row] if whole else _key(ids[row])) for row in rows), np.int64, len(rows))
    order = np.argsort(hashes, kind="stable")
    for k in np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]]).tolist():
        first, second = sorted((rows[order[k]], rows[order[k + 1]]))
        if ids[first] == ids[second] or (not whole and _key(ids[first]) == _key(ids[second])):
            a, b = (samples.shards[int(samples.shard[each])].path.name for each in (first, second))
            raise DataError(
                f"the sample {ids[first]!r} of {a} and {ids[second]!r} of {b} have one key",
                "each key once in a split",
                "remove one, or name the shards' splits: SPLIT=SHARDS",
            )
    return np.array(rows, dtype=np.int64)


def _key(sample: str) -> str:
    slash = sample.rfind("/")
    return sample[: sample.index(".", slash + 1)]


def _remarks(uri: str, without: int, n: int) -> tuple[str, ...]:
    return (f"{without} texts of {uri} have no image and are left out; {n} samples have one",) if without else ()
