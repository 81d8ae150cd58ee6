"""``hf:FOLDER`` and ``hf:NAME[/CONFIG]``: datasets of Hugging Face ``datasets``, images or texts.

A folder is what ``save_to_disk`` wrote, a repository of the hub with Parquet files, or a folder of the library's cache
(``files``); it is read without the package. A name is fetched, or found in the cache, by the package (``hub``).
Code of a dataset is never run.

Columns: an ``Image`` (bytes, or a path inside the folder), or the texts of a sentence or pair, with a ``ClassLabel``, a
column ``label`` of numbers, names or real numbers, or a ``caption``. Others are mapped as for ``table:``:
``?image=img&label=fine_label``, ``?text=a&text_b=b``, ``?split=COLUMN``, ``?domain=COLUMN``; ``?config=NAME`` and
``?revision=SHA`` choose among what a repository has. Classes have the order of the ``ClassLabel``; -1 and an empty
label are unlabelled.

Sample ids are fixed by what is stored, before anything is decoded:

1. the cells of ``?id=COLUMN``, texts or whole numbers, unique in a split;
2. of images that all have a path and a class, ``CLASS/FILE``, after ``SPLIT/`` where there are several splits: what
   ``folder:`` calls the same images. Of the path only the file's name counts, for ``save_to_disk`` and ``push_to_hub``
   keep no more. Where two samples would have one id, it is the path below the folder that all are in;
3. else the row's number in its split, ``train/000012``.

``folder:DIR`` of a ``DIR/train/CLASS/x.jpg`` that has no other split says ``train/CLASS/x.jpg``: so does
``?prefix=train``, which comes first in ids of 1 and 2. Rows stand in the order of their ids.
"""

from __future__ import annotations

import difflib
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from nmtool.artifact.memo import Memo
from nmtool.data import files
from nmtool.data.dataset import Dataset, Indexed
from nmtool.data.hf.columns import COLUMNS, Column, Roles, columns_of, roles_of
from nmtool.data.hf.files import find
from nmtool.data.hf.labels import Labelled, labels_of, names_in
from nmtool.data.hf.samples import Samples
from nmtool.data.hf.store import Store
from nmtool.data.ids import numbered_ids
from nmtool.data.images import decode
from nmtool.data.index import check_id, make_splits
from nmtool.errors import DataError, InputMissingError, UsageError
from nmtool.records import Float, Int, SampleIndex, TextColumn, check_split

RULE = 1
"""Version of the rule for ids, above."""

_SCATTERED = (
    "the images of split {} lie scattered over Parquet files, and each is read with all of its row group: "
    "a copy made by save_to_disk is quicker to read"
)
_SETTINGS = (*COLUMNS, "config", "revision", "prefix")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A parsed URI: folder or name, column by role, and the other settings."""

    place: str
    columns: Mapping[str, str]
    config: str
    revision: str
    prefix: str


class HfDataset(Indexed):
    """Rows of a Hugging Face dataset, by id."""

    def __init__(
        self,
        *,
        uri: str,
        kind: str,
        splits: dict[str, SampleIndex],
        classes: tuple[str, ...],
        samples: Samples,
        targets: Mapping[str, Float] | None,
        remarks: list[str],
    ) -> None:
        super().__init__(uri=uri, kind=kind, splits=splits, classes=classes, remarks=remarks)
        self._samples, self._targets = samples, targets

    def image(self, split: str, row: int) -> npt.NDArray[np.uint8]:
        """Sample ``row`` as RGB uint8 [H, W, 3]; see ``Dataset.image``."""
        if self.kind == "text":
            self._refuse("images")
        name = self.splits[split].ids[row]
        return decode(self._samples.image(split, row, name), name=name)

    def caption(self, split: str, row: int) -> str:
        """The caption of sample ``row``."""
        return self._samples.texts(split, row)[0] if self.kind == "captions" else super().caption(split, row)

    def text(self, split: str, row: int) -> tuple[str, ...]:
        """The text, or the pair of texts, of sample ``row``."""
        return self._samples.texts(split, row) if self.kind == "text" else super().text(split, row)

    def targets(self, split: str) -> Float | None:
        """Real-number labels float64 [n], NaN where there is none; None where the labels are classes."""
        return None if self._targets is None else self._targets[split]


def open_hf(where: str, *, uri: str, memo: Memo) -> Dataset:
    """Index the folder or the named dataset ``where``.

    Raises:
        UsageError: the URI can't be understood, or it has several configurations and none is named.
        InputMissingError: no such folder, or a file that another one names is not there.
        UnavailableError: a name, and neither the hub nor the cache has it, or the package is not installed.
        DataError: no layout that is known, damaged files, columns that can't be told apart, labels out of range.
    """
    asked = _parse(where, uri)
    roots, config = _places(asked, memo)
    store = Store(find(roots[0], config))
    columns, roles = _roles(store, asked)
    rows = _splits(store, columns, roles)
    labelled = labels_of(store, columns, roles, rows)
    found = {split: _ids(split, rows, labelled, store, roles, asked) for split in sorted(rows)}
    at = {split: rows[split][order] for split, ((_, order), _) in found.items()}
    samples = Samples(store, roles, at, targets=labelled.stored_targets(store, rows), roots=roots, memo=memo)
    splits = make_splits(
        kind=roles.kind,
        classes=labelled.classes,
        rows={split: (ids, labelled.values[split][order]) for split, ((ids, order), _) in found.items()},
        contents=samples.contents,
        memo=memo,
        question=lambda: _question(store, samples, asked),
        trusted=lambda: store.settled() and samples.places().trusted,
    )
    targets = labelled.targets and {split: labelled.targets[split][order] for split, ((_, order), _) in found.items()}
    remarks = [*store.remarks, *labelled.remarks, *(remark for _, remark in found.values() if remark)]
    remarks += [_SCATTERED.format(split) for split in at if roles.kind != "text" and store.scattered(at[split])]
    return HfDataset(
        uri=uri,
        kind=roles.kind,
        splits=splits,
        classes=labelled.classes,
        samples=samples,
        targets=targets,
        remarks=remarks,
    )


def _parse(where: str, uri: str) -> _Asked:
    """Read ``PLACE?setting=value&…``."""
    place, _, query = where.partition("?")
    settings: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        name, sep, value = (unquote(part) for part in pair.partition("="))
        if name not in _SETTINGS:
            near = difflib.get_close_matches(name, _SETTINGS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"as hf:{place}?label=COLUMN"
            raise UsageError(f"no setting {name!r} (in {uri!r})", f"one of {', '.join(_SETTINGS)}", hint)
        if not sep or not value or name in settings:
            raise UsageError(f"{pair!r} in {uri!r}", f"each setting once, as {name}=VALUE")
        settings[name] = value
    if not place:
        raise UsageError(f"no dataset in {uri!r}", "hf:FOLDER, hf:NAME or hf:NAME/CONFIG")
    config, revision, prefix = (settings.pop(name, "") for name in ("config", "revision", "prefix"))
    prefix = check_id(prefix, "prefix").strip("/") if prefix else ""
    return _Asked(place=unquote(place), columns=settings, config=config, revision=revision, prefix=prefix)


def _places(asked: _Asked, memo: Memo) -> tuple[list[Path], str]:
    """The dataset's folder, others that its image paths may lead into, and the configuration to look for in it."""
    if asked.place.startswith(("/", ".", "~")) or Path(asked.place).exists():
        root, found = files.place(asked.place, "folder", "hf")
        if not stat.S_ISDIR(found.st_mode):
            raise InputMissingError(f"{asked.place!r} is a file", "a folder", "for one table, write table:FILE")
        if asked.revision:
            raise UsageError("revision= for a folder", "a name on the hub", "leave it out")
        return [root], asked.config
    from nmtool.data.hf.hub import fetch

    return fetch(asked.place, asked.config, asked.revision, memo), ""


def _roles(store: Store, asked: _Asked) -> tuple[dict[str, Column], Roles]:
    """The columns and their roles, which have to be the same in all files."""
    name = store.layout.root.name
    first: dict[str, Column] = {}
    roles = None
    for split, stored in sorted(store.layout.splits.items()):
        for shard in store.shards[store.first[split] :][: len(stored.paths)]:
            columns = columns_of(shard.schema, stored.features, shard.name)
            if roles is None:
                first, roles = columns, roles_of(columns, asked.columns, name)
                example = shard.name
            if (
                set(columns) >= set(roles.columns.values())
                and roles_of(columns, asked.columns, name).columns != roles.columns
            ):
                raise DataError(f"{shard.name} and {example} have different columns", "the same columns in all")
            for column in roles.columns.values():
                mine, other = columns.get(column), first[column]
                if mine is None or (mine.kind, mine.names) != (other.kind, other.names):
                    raise DataError(
                        f"column {column!r} is not the same in {shard.name} and {example}", "the same columns in all"
                    )
    assert roles is not None
    return first, roles


def _splits(store: Store, columns: Mapping[str, Column], roles: Roles) -> dict[str, Int]:
    """Stored rows of each split, in their order: the stored splits, unless columns say otherwise."""
    rows = dict(store.rows)
    for role in ("split", "domain"):
        if role not in roles.columns:
            continue
        parts: dict[str, list[Int]] = {}
        for split, mine in sorted(rows.items()):
            names, codes = names_in(store, roles.columns[role], columns, mine, split)
            for code, name in enumerate(names):
                final = name if role == "split" else f"{name}/{split}"
                parts.setdefault(final, []).append(mine[codes == code])
        rows = {split: np.concatenate(each) for split, each in parts.items()}
    for split in rows:
        check_split(split)
    return rows


def _ids(
    split: str, rows: Mapping[str, Int], labelled: Labelled, store: Store, roles: Roles, asked: _Asked
) -> tuple[tuple[TextColumn, Int], str]:
    """Ids of a split in order with the row of each, and a remark; the rule stands at the top of this file."""
    from nmtool.data.hf.ids import given_ids, path_ids

    mine, again = rows[split], ""
    above = f"{asked.prefix}/" if asked.prefix else ""
    if "id" in roles.columns and len(mine):
        column = roles.columns["id"]
        return given_ids(store.column((column,), mine), above, f"column {column!r} in split {split}"), ""
    if roles.kind == "images" and roles.path is not None and "label" in roles.columns and len(mine):
        above += f"{split}/" if len(rows) > 1 else ""
        paths: Any = store.column(roles.path, mine)
        found, again = path_ids(paths, labelled.names(split), above, f"split {split}")
        if found is not None:
            return found, ""
    if asked.prefix:
        raise UsageError(
            f"prefix={asked.prefix} for split {split}, whose sample ids are row numbers",
            "ids made of paths and labels, or ?id=COLUMN",
            "leave it out",
        )
    remark = f"two samples of split {split} would be {again!r}: their ids are row numbers" if again else ""
    return (numbered_ids(split, len(mine)), np.arange(len(mine), dtype=np.int64)), remark


def _question(store: Store, samples: Samples, asked: _Asked) -> object:
    """What changes whenever a sample, an id or a label may have."""
    settings = [*sorted(asked.columns.items()), asked.prefix, asked.config]
    return ["hf", RULE, store.question(), settings, files.listing_digest((), samples.places().identities)]
