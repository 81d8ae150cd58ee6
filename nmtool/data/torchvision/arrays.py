"""Those of torchvision's datasets that it holds in memory: one literal table. Nothing here imports torchvision."""

from __future__ import annotations

import bz2
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nmtool.data import files, idx
from nmtool.data.hdf5 import Hdf5Array
from nmtool.data.torchvision.sets import Arrays, Part, Set, Take, split_parts
from nmtool.errors import DataError

_BZ2_BYTES = 1 << 29


def _digits(_: Any) -> list[str]:
    return [str(digit) for digit in range(10)]


def _slices(array: npt.NDArray[Any]) -> tuple[int, Take]:
    return len(array), lambda start, stop: array[start:stop]


def _targets(found: Any, home: Path, split: str) -> tuple[Any, int, Take]:
    """CIFAR and USPS: numpy arrays, colours last or grey."""
    return (found.targets, *_slices(found.data))


def _tensors(found: Any, home: Path, split: str) -> tuple[Any, int, Take]:
    """MNIST and its relatives; QMNIST's labels have eight columns, the class is the first."""
    targets = found.targets.numpy()
    return (targets if targets.ndim == 1 else targets[:, 0], *_slices(found.data.numpy()))


def _planes(found: Any, home: Path, split: str) -> tuple[Any, int, Take]:
    """SVHN and STL10: colours first."""
    return (found.labels, *_slices(found.data.transpose(0, 2, 3, 1)))


def _grey(found: Any, home: Path, split: str) -> tuple[Any, int, Take]:
    """SEMEION."""
    return (found.labels, *_slices(found.data))


def _pairs_in_memory(found: Any, home: Path, split: str) -> tuple[Any, int, Take]:
    """FER2013: a list of grey tensors with their labels, None where they are secret."""
    images = np.stack([image.numpy() for image, _ in found._samples])
    return ([label for _, label in found._samples], *_slices(images))


def _pcam(found: Any, home: Path, split: str) -> tuple[Any, int, Take]:
    """PCAM: torchvision holds nothing and opens its files for every image; here they are read by rows."""
    of_split = {role: home / entry[0] for role, entry in found._FILES[found._split].items()}
    images, labels = Hdf5Array(of_split["images"], "x"), Hdf5Array(of_split["targets"], "y")
    n = labels.shape[0]
    return labels.rows(0, n).reshape(n, -1)[:, 0], images.shape[0], images.rows


def _idx(prefix: str, train: str, test: str) -> Callable[[Path, str, str], None]:
    """Checks the two files of a split of MNIST's form."""

    def check(home: Path, split: str, member: str) -> None:
        part = prefix.format(member=member) + (train if split == "train" else test)
        names = [f"raw/{part}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1")]
        idx.check_pair(*((home / name, f"{home.name}/{name}") for name in names))

    return check


def _idx_wide(home: Path, split: str, member: str) -> None:
    part = "xnist" if split == "nist" else f"qmnist-{split}"
    names = [f"raw/{part}-{kind}" for kind in ("images-idx3-ubyte", "labels-idx2-int")]
    idx.check_pair(*((home / name, f"{home.name}/{name}") for name in names), wide=True)


def _unpacks(home: Path, split: str, member: str) -> None:
    """A few kilobytes of bzip2 can hold gigabytes, which torchvision would read at once."""
    name = "usps.bz2" if split == "train" else "usps.t.bz2"
    with files.told(name), bz2.open(home / name) as stream:
        try:
            left = _BZ2_BYTES
            while left >= 0 and (block := stream.read(1 << 20)):
                left -= len(block)
        except (EOFError, ValueError, OSError) as error:
            raise DataError(f"{name} is damaged ({error})", "a sound bzip2 file", "fetch it again") from None
    if left < 0:
        raise DataError(f"{name} unpacks to over {_BZ2_BYTES} bytes", "the official file")


_TRAIN_TEST = {"train": Part(args={"train": True}), "test": Part(args={"train": False})}
_FOUR = tuple(f"raw/{p}-{k}-ubyte" for p in ("train", "t10k") for k in ("images-idx3", "labels-idx1"))
_PROCESSED = ("processed",)


def _like_mnist(name: str) -> Set:
    return Set(
        name=name,
        home=name,
        parts=_TRAIN_TEST,
        rows=Arrays(read=_tensors),
        needs=_FOUR,
        # what old versions of torchvision wrote, and new ones still prefer
        reads=(*_FOUR, *_PROCESSED),
        check=_idx("", "train", "t10k"),
    )


def _cifar(name: str, home: str, files_of: tuple[str, ...], suite: str) -> Set:
    return Set(
        name=name, home=home, parts=_TRAIN_TEST, rows=Arrays(read=_targets), needs=files_of, md5=True, suite=suite
    )


def _emnist(part: str) -> tuple[str, ...]:
    return tuple(f"raw/emnist-{{member}}-{part}-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1"))


def _qmnist(part: str) -> tuple[str, ...]:
    return f"raw/{part}-images-idx3-ubyte", f"raw/{part}-labels-idx2-int"


ARRAY_SETS: tuple[Set, ...] = (
    _cifar(
        "CIFAR10",
        "cifar-10-batches-py",
        ("batches.meta", *(f"data_batch_{k}" for k in range(1, 6)), "test_batch"),
        "cifar10",
    ),
    _cifar("CIFAR100", "cifar-100-python", ("meta", "train", "test"), "cifar100"),
    _like_mnist("MNIST"),
    _like_mnist("FashionMNIST"),
    _like_mnist("KMNIST"),
    Set(
        name="EMNIST",
        home="EMNIST",
        parts={
            "train": Part(args={"train": True}, needs=_emnist("train")),
            "test": Part(args={"train": False}, needs=_emnist("test")),
        },
        rows=Arrays(read=_tensors),
        members={each: {"split": each} for each in ("byclass", "bymerge", "balanced", "letters", "digits", "mnist")},
        default=None,
        check=_idx("emnist-{member}-", "train", "test"),
    ),
    Set(
        name="QMNIST",
        home="QMNIST",
        parts={
            "train": Part(args={"what": "train"}, needs=_qmnist("qmnist-train")),
            "test": Part(args={"what": "test"}, needs=_qmnist("qmnist-test")),
            "nist": Part(args={"what": "nist"}, needs=_qmnist("xnist"), optional=True),
        },
        rows=Arrays(read=_tensors),
        check=_idx_wide,
    ),
    Set(
        name="USPS",
        home="",
        parts={
            "train": Part(args={"train": True}, needs=("usps.bz2",)),
            "test": Part(args={"train": False}, needs=("usps.t.bz2",)),
        },
        rows=Arrays(read=_targets),
        classes=_digits,
        check=_unpacks,
    ),
    Set(
        name="SVHN",
        home="",
        parts={
            **split_parts("train", "test", needs="{split}_32x32.mat"),
            "extra": Part(args={"split": "extra"}, needs=("extra_32x32.mat",), optional=True),
        },
        rows=Arrays(read=_planes),
        classes=_digits,
        md5=True,
        suite="svhn",
        extra="scipy",
    ),
    Set(
        name="STL10",
        home="stl10_binary",
        parts={
            **split_parts("train", "test"),
            "unlabeled": Part(args={"split": "unlabeled"}, unlabelled=True),
        },
        rows=Arrays(read=_planes),
        needs=("train_X.bin", "train_y.bin", "test_X.bin", "test_y.bin", "unlabeled_X.bin", "class_names.txt"),
        md5=True,
    ),
    Set(
        name="SEMEION",
        home="",
        parts={"train": Part()},
        rows=Arrays(read=_grey),
        needs=("semeion.data",),
        classes=_digits,
        md5=True,
    ),
    Set(
        name="FER2013",
        home="fer2013",
        parts=split_parts("train", "test"),
        rows=Arrays(read=_pairs_in_memory),
        # one or two of these
        reads=("fer2013.csv", "icml_face_data.csv", "train.csv", "test.csv"),
        # torchvision has no names for them
        classes=lambda _: [str(number) for number in range(7)],
        md5=True,
    ),
    Set(
        name="PCAM",
        home="pcam",
        parts={
            split: Part(
                args={"split": split},
                needs=tuple(f"camelyonpatch_level_2_split_{word}_{axis}.h5" for axis in "xy"),
            )
            for split, word in (("train", "train"), ("val", "valid"), ("test", "test"))
        },
        rows=Arrays(read=_pcam),
        classes=lambda _: ["0", "1"],
        suite="pcam",
        extra="h5py",
    ),
)
