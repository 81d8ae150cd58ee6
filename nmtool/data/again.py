"""The data that features were made from, opened again and checked: the same samples, by digest, or an error."""

from __future__ import annotations

from nmtool.artifact.memo import Memo
from nmtool.artifact.open import Artifact
from nmtool.data.dataset import Dataset
from nmtool.data.sources import open_dataset
from nmtool.errors import DataError, InputMissingError


def open_again(
    features: Artifact, split: str, *, shown: str, memo: Memo, data: str | None = None, data_root: str | None = None
) -> Dataset:
    """The dataset of a ``features`` artifact, from where ``extract`` read it.

    Args:
        features: the artifact.
        split: whose samples must be those that were encoded.
        shown: the artifact, as messages call it.
        memo: of digests.
        data, data_root: where the data is now, in place of what the artifact says.

    Raises:
        InputMissingError: the artifact does not say, or nothing is there any more.
        DataError: other samples than those encoded.
    """
    origin = features.manifest.origin
    uri = data or str(origin.get("data") or "")
    if not uri:
        raise InputMissingError(f"{shown} does not say which data it is of", "its data", "give --data")
    root = data_root or origin.get("data_root") or None
    dataset = open_dataset(uri, memo=memo, data_root=str(root) if root else None)
    index = dataset.splits.get(split)
    if index is None:
        raise InputMissingError(f"{dataset.uri} has no split {split}", "one of " + ", ".join(dataset.splits))
    splits = features.manifest.summary.get("splits", {})
    recorded = str(splits.get(split, {}).get("digest", "")) if isinstance(splits, dict) else ""
    if index.digest != recorded:
        raise DataError(
            f"split {split} of {dataset.uri} has other samples than the features {shown} were made from",
            f"samples of digest {recorded[:19]} (found {index.digest[:19]})",
            "give the same data with --data, or extract again",
        )
    return dataset
