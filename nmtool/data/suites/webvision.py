"""WebVision 1.0: photographs found on Google and Flickr by ImageNet's class names, whose labels are the searched names.

``suite:webvision`` is the whole; ``suite:webvision/mini`` is what most work on noisy labels trains on: the first 50
classes, Google's images alone. Classes are named by their WordNet ids, as ImageNet's are, in WebVision's order.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nmtool.data.dataset import Dataset
from nmtool.data.suites.facts import Request, Suite
from nmtool.data.suites.samples import ImageFiles, files_dataset
from nmtool.data.suites.tabbed import keyed, listed
from nmtool.errors import DataError

_SYNSETS, _GOOGLE, _FLICKR, _VAL = (
    f"info/{name}"
    for name in ("synsets.txt", "train_filelist_google.txt", "train_filelist_flickr.txt", "val_filelist.txt")
)
_MINI = 50


def _load(suite: Suite, request: Request) -> Dataset:
    mini = request.member == "mini"
    classes = _classes(request.root)
    keep = classes[:_MINI] if mini else classes
    train = [_GOOGLE] if mini else [_GOOGLE, _FLICKR]
    splits = {
        "train": _files(request.root, train, "", len(classes), len(keep)),
        "val": _files(request.root, [_VAL], "val_images_256/", len(classes), len(keep)),
    }
    inputs = [request.root / name for name in (_SYNSETS, *train, _VAL)]
    return files_dataset(WEBVISION_MINI if mini else suite, request, keep, splits, inputs=inputs)


def _classes(root: Path) -> list[str]:
    """The WordNet id that each line of the list of synsets begins with."""
    found = [line.split()[0] for line in listed(root / _SYNSETS, _SYNSETS)]
    if len(set(found)) < len(found):
        twice = next(name for name in found if found.count(name) > 1)
        raise DataError(f"the class {twice!r} stands twice in {_SYNSETS}", "each class once")
    return found


def _files(root: Path, names: Sequence[str], folder: str, classes: int, keep: int) -> ImageFiles:
    paths, labels = [], []
    for name in names:
        for path, label in keyed(root / name, name, classes):
            if label < keep:
                paths.append(folder + path)
                labels.append(label)
    return ImageFiles(paths=paths, labels=labels)


_TREE = """
webvision/
  info/synsets.txt                 n01440764 tench, Tinca tinca
  info/train_filelist_google.txt   google/q0001/abc.jpg 0
  info/train_filelist_flickr.txt   flickr/q0001/def.jpg 0
                                   (not for webvision/mini)
  info/val_filelist.txt            val000001.jpg 0
  google/q0001/ …
  flickr/q0001/ …
  val_images_256/
"""
_FOLDERS = ("WebVision", "webvision1.0", "WebVision1.0")

WEBVISION = Suite(
    name="webvision",
    title="WebVision 1.0",
    group="noisy labels",
    kind="images",
    classes=1000,
    splits={"train": None, "val": 50_000},
    metric="accuracy",
    source="Li et al. 2017",
    tree=_TREE,
    witnesses=(_SYNSETS, _GOOGLE, _VAL),
    folders=_FOLDERS,
    load=_load,
    members=("mini",),
    aliases=("webvision1",),
    note="train has 2.4 million images; its labels are the names searched for, and about a fifth is wrong. The test "
    "set (50,000) has no public labels and is left out.",
    protocol="TURN trains on the 2.4 million images of train and tests on the 50,000 of val (Tables 3 and 6).",
)

WEBVISION_MINI = Suite(
    name="webvision/mini",
    title="mini-WebVision",
    group="noisy labels",
    kind="images",
    classes=_MINI,
    splits={"train": None, "val": 2_500},
    metric="accuracy",
    source="Li et al. 2017; Jiang et al. 2018",
    tree=_TREE,
    witnesses=WEBVISION.witnesses,
    folders=_FOLDERS,
    load=_load,
    note="The first 50 classes, Google's images alone. Counts of its training images differ (about 61,000 to 66,000), "
    "by how the archives were read.",
    protocol="DivideMix and what follows it train on train and test on val, and on the same classes of ImageNet's val.",
)
"""What ``suite:webvision/mini`` is; it is opened as a member of ``WEBVISION``."""
