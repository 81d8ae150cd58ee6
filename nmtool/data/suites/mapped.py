"""ObjectNet and ImageNet-Vid-Robust: test images whose classes are mapped to ImageNet-1K's by files of their own.

A class of theirs may be several of ImageNet's. A label is then the lowest of these class numbers, and stands for all of
them (``classlists.groups_of``): a prediction of any is right, as the authors score it. The mapping files are read and
have to agree with what is known of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nmtool.data import classlists, files
from nmtool.data.dataset import Dataset
from nmtool.data.suites.facts import Request, Suite
from nmtool.data.suites.listing import class_folders, image_files, regular
from nmtool.data.suites.samples import ImageFiles, files_dataset
from nmtool.errors import DataError

_JSON_BYTES = 256 << 20


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        InputMissingError: no such file.
        DataError: it is no JSON, or no object.
    """
    with files.told(path.name):
        data = regular(path, path.name, _JSON_BYTES).read_bytes()
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path.name} is no JSON ({str(error)[:100]})", "the official file") from None
    if not isinstance(body, dict):
        raise DataError(f"{path.name} holds a {type(body).__name__}", "an object of names")
    return body


def _load_objectnet(suite: Suite, request: Request) -> Dataset:
    """The images of the categories that ImageNet has, without the red border of two pixels that marks test images."""
    paths = [
        request.root / "mappings" / f"{name}.json" for name in ("folder_to_objectnet_label", "objectnet_to_imagenet_1k")
    ]
    labels, mapped = (_json(path) for path in paths)
    number = _categories(labels, mapped)
    found = class_folders(request.root, "images", {name: number.get(name, -1) for name in labels}, suite)
    there = {name: images for name, images in found.items() if name in number}
    if not there:
        raise DataError(f"no category of {suite.title} here is a class of ImageNet", "some of its 113 that are")
    splits = {"test": image_files(there, number)}
    return files_dataset(suite, request, classlists.wnids(), splits, inputs=paths, border=2, remarks=[_grouped(suite)])


def _categories(labels: Mapping[str, Any], mapped: Mapping[str, Any]) -> dict[str, int]:
    """Label by folder, of the categories that ImageNet has.

    Raises:
        DataError: a mapping that names no category or no class, or is not the known one.
    """
    folders = {label: folder for folder, label in labels.items() if isinstance(label, str)}
    by_name: dict[str, list[int]] = {}
    for number, name in enumerate(classlists.names()):
        by_name.setdefault(name, []).append(number)
    out = {}
    for label, text in mapped.items():
        if label not in folders:
            raise DataError(f"objectnet_to_imagenet_1k.json has the category {label!r}", "one with a folder")
        names = text.split("; ") if isinstance(text, str) else []
        strange = [name for name in names if len(by_name.get(name, ())) != 1]
        if strange or not names:
            raise DataError(f"the category {label!r} is mapped to {(strange or [text])[0]!r}", "classes of ImageNet-1K")
        group = tuple(sorted(by_name[name][0] for name in names))
        if group not in classlists.OBJECTNET_GROUPS:
            raise DataError(f"the category {label!r} is mapped to {text!r}", "the mapping of ObjectNet 1.0")
        out[folders[label]] = group[0]
    return out


def _load_vid(suite: Suite, request: Request) -> Dataset:
    """The anchor frames; the frames near them, and accuracy over these (pm-k), are not read."""
    names = ("metadata/pmsets.json", "metadata/labels.json", "misc/wnid_map.json", "misc/imagenet_vid_class_index.json")
    inputs = [request.root / name for name in names]
    anchors, labels, mapped, index = (_json(path) for path in inputs)
    _check_vid(mapped, index)
    paths, numbers, several = [], [], 0
    for anchor in anchors:
        classes = labels.get(anchor)
        if not isinstance(classes, list) or not classes:
            raise DataError(f"the anchor frame {anchor!r} has no label in labels.json", "at least one")
        bad = [each for each in classes if type(each) is not int or not 0 <= each < len(classlists.VID_GROUPS)]
        if bad:
            raise DataError(f"labels.json has the class {bad[0]!r} for {anchor!r}", "0 to 29")
        paths.append(anchor)
        numbers.append(classlists.VID_GROUPS[classes[0]][0])
        several += len(classes) > 1
    remarks = [_grouped(suite)]
    if several:
        remarks.append(f"{several} frames of suite:{suite.name} show several classes and are labelled as the first")
    splits = {"test": ImageFiles(paths=paths, labels=numbers)}
    return files_dataset(suite, request, classlists.wnids(), splits, inputs=inputs, remarks=remarks)


def _check_vid(mapped: Mapping[str, Any], index: Mapping[str, Any]) -> None:
    """The two files in ``misc`` say the groups that are known, as far as they go."""
    number = classlists.numbers()
    known = {str(at): group for at, group in enumerate(classlists.VID_GROUPS)}
    groups = {}
    for key, value in index.items():
        if key not in known or not isinstance(value, list) or not value:
            raise DataError(f"imagenet_vid_class_index.json has {key!r}: {value!r}"[:200], "0 to 29: [WNID, name]")
        groups[str(value[0])] = known[key]
    for wnid, vid in mapped.items():
        if not isinstance(vid, str) or vid not in groups or wnid not in number or number[wnid] not in groups[vid]:
            raise DataError(
                f"wnid_map.json maps {wnid!r} to {vid!r}"[:200], "the published mapping of ImageNet-1K to ImageNet-VID"
            )


def _grouped(suite: Suite) -> str:
    return (
        f"labels of suite:{suite.name} stand for groups of ImageNet classes: a prediction of any class of a group is "
        "right, and plain accuracy, which counts the first only, is too low"
    )


OBJECTNET = Suite(
    name="objectnet",
    title="ObjectNet",
    group="out-of-domain",
    kind="images",
    classes=classlists.CLASSES,
    splits={"test": 18_574},
    metric="accuracy",
    source="Barbu et al. 2019",
    tree="""
objectnet-1.0/
  images/alarm_clock/….png …
  mappings/
    folder_to_objectnet_label.json
    objectnet_to_imagenet_1k.json
""",
    witnesses=("mappings/folder_to_objectnet_label.json", "mappings/objectnet_to_imagenet_1k.json"),
    folders=("objectnet-1.0", "objectnet-1.0-beta"),
    load=_load_objectnet,
    note="113 of its 313 categories are classes of ImageNet (the paper's Table 5 prints 112): 125 classes, nine "
    "categories being several; the red border of 2 pixels around its images is cut off",
    subset="125 classes in 113 groups",
    protocol="test only: heads are trained on ImageNet-1K",
)

IMAGENET_VID = Suite(
    name="imagenet-vid",
    title="ImageNet-ViD",
    group="out-of-domain",
    kind="images",
    classes=classlists.CLASSES,
    splits={"test": 1_109},
    metric="accuracy",
    source="Shankar et al. 2021 (ImageNet-Vid-Robust)",
    tree="""
imagenet-vid-robust/
  metadata/
    pmsets.json               (its keys are the anchor frames)
    labels.json
  misc/
    imagenet_vid_class_index.json
    wnid_map.json
  val/ILSVRC2015_val_00000000/000442.JPEG …
""",
    witnesses=("metadata/pmsets.json", "metadata/labels.json"),
    folders=("imagenet-vid-robust", "imagenet_vid_ytbb_robust/imagenet-vid-robust"),
    load=_load_vid,
    aliases=("imagenet-vid-robust",),
    note="the paper's Table 5 prints 1,000 classes and no size; it has 30 classes, which are 288 of ImageNet's, and "
    "1,109 anchor frames, which are what is read",
    subset="288 classes in 30 groups",
    protocol="test only: heads are trained on ImageNet-1K",
)
