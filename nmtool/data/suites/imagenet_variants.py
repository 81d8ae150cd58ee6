"""ImageNet-V2, -R, -Sketch and -A: test images in class folders, for heads that were trained on ImageNet-1K.

Their classes are ImageNet-1K's 1,000 WordNet ids and their labels those numbers, whichever part of them they have; that
part is ``classlists.subset_of``. A folder of another class is refused.
"""

from __future__ import annotations

from dataclasses import replace

from nmtool.data import classlists
from nmtool.data.dataset import Dataset
from nmtool.data.suites.facts import Request, Suite
from nmtool.data.suites.listing import class_folders, image_files
from nmtool.data.suites.samples import files_dataset
from nmtool.errors import InputMissingError

_V2 = {
    "matched-frequency": "imagenetv2-matched-frequency-format-val",
    "threshold-0.7": "imagenetv2-threshold0.7-format-val",
    "top-images": "imagenetv2-top-images-format-val",
}
_WNIDS = ("n0*", "n1*")
_TEST_ONLY = "test only: heads are trained on ImageNet-1K"


def _load_v2(suite: Suite, request: Request) -> Dataset:
    folder = _V2[request.member or "matched-frequency"]
    if not (request.root / folder).is_dir():
        raise InputMissingError(f"the folder {folder} of {request.uri} is not there")
    # the folders are the numbers themselves; sorted as texts they would be in another order
    known = {str(number): number for number in range(classlists.CLASSES)}
    return _test(suite, replace(request, root=request.root / folder), known)


def _load_wnids(suite: Suite, request: Request) -> Dataset:
    inner = request.root / suite.witnesses[0]
    number = classlists.numbers()
    subset = classlists.subset_of(suite.name)
    if subset is not None:
        number = {classlists.wnids()[each]: each for each in subset}
    return _test(suite, replace(request, root=inner if inner.is_dir() else request.root), number)


def _test(suite: Suite, request: Request, known: dict[str, int]) -> Dataset:
    splits = {"test": image_files(class_folders(request.root, "", known, suite), known)}
    return files_dataset(suite, request, classlists.wnids(), splits, inputs=[])


IMAGENET_V2 = Suite(
    name="imagenet-v2",
    title="ImageNet-V2",
    group="out-of-domain",
    kind="images",
    classes=classlists.CLASSES,
    splits={"test": 10_000},
    metric="accuracy",
    source="Recht et al. 2019",
    tree="""
imagenetv2/
  imagenetv2-matched-frequency-format-val/
    0/….jpeg                           (folders are class numbers, 0 to 999)
    …
  imagenetv2-threshold0.7-format-val/  (suite:imagenet-v2/threshold-0.7)
  imagenetv2-top-images-format-val/    (suite:imagenet-v2/top-images)
""",
    witnesses=tuple(_V2.values()),
    folders=("imagenetv2", "ImageNetV2"),
    load=_load_v2,
    members=tuple(_V2),
    note="without a member, matched-frequency",
    protocol=_TEST_ONLY,
)

IMAGENET_R = Suite(
    name="imagenet-r",
    title="ImageNet-R",
    group="out-of-domain",
    kind="images",
    classes=classlists.CLASSES,
    splits={"test": 30_000},
    metric="accuracy",
    source="Hendrycks et al. 2021 (The Many Faces of Robustness)",
    tree="""
imagenet-r/
  n01443537/art_0.jpg …
  …
""",
    witnesses=("imagenet-r", *_WNIDS),
    folders=("imagenet-rendition",),
    load=_load_wnids,
    subset="200 classes",
    protocol=_TEST_ONLY,
)

IMAGENET_SKETCH = Suite(
    name="imagenet-sketch",
    title="ImageNet-Sketch",
    group="out-of-domain",
    kind="images",
    classes=classlists.CLASSES,
    splits={"test": 50_889},
    metric="accuracy",
    source="Wang et al. 2019",
    tree="""
imagenet-sketch/
  sketch/
    n01440764/sketch_0.JPEG …
    …
""",
    witnesses=("sketch", *_WNIDS),
    folders=("ImageNet-Sketch", "imagenetsketch"),
    load=_load_wnids,
    protocol=_TEST_ONLY,
)

IMAGENET_A = Suite(
    name="imagenet-a",
    title="ImageNet-A",
    group="out-of-domain",
    kind="images",
    classes=classlists.CLASSES,
    splits={"test": 7_500},
    metric="accuracy",
    source="Hendrycks et al. 2021 (Natural Adversarial Examples)",
    tree="""
imagenet-a/
  n01498041/….jpg
  …
""",
    witnesses=("imagenet-a", *_WNIDS),
    folders=("imagenet-adversarial",),
    load=_load_wnids,
    subset="200 classes",
    protocol=_TEST_ONLY,
)
