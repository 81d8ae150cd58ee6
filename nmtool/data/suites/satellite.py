"""EuroSAT and NWPU-RESISC45, satellite images: a folder of images for each class, and no split of their own.

The papers train on four fifths (VTAB's train and validation parts together) and test on a fifth. VTAB's cuts follow the
order of TensorFlow's files; here a fifth of each class, rounded down and at least one image of two, is drawn by
``listing.drawn`` from seed 0, the same everywhere. Labels number the sorted class names, as torchvision does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from nmtool.data.dataset import Dataset
from nmtool.data.suites.facts import Request, Suite
from nmtool.data.suites.listing import class_folders, drawn, fifth, image_files
from nmtool.data.suites.samples import files_dataset

# Helber et al. 2019, and torchvision's folders
_EUROSAT = (
    *("AnnualCrop", "Forest", "HerbaceousVegetation", "Highway", "Industrial", "Pasture", "PermanentCrop"),
    *("Residential", "River", "SeaLake"),
)
# Cheng et al. 2017, and torchgeo's list
_NAMES = """
airplane airport baseball_diamond basketball_court beach bridge chaparral church circular_farmland cloud
commercial_area dense_residential desert forest freeway golf_course ground_track_field harbor industrial_area
intersection island lake meadow medium_residential mobile_home_park mountain overpass palace parking_lot railway
railway_station rectangular_farmland river roundabout runway sea_ice ship snowberg sparse_residential stadium
storage_tank tennis_court terrace thermal_power_station wetland
"""
_RESISC = tuple(_NAMES.split())
_DRAWN = "no official split: a fifth of each class for testing, drawn by nmtool from seed 0; VTAB's sizes, not its cuts"


def _load_eurosat(suite: Suite, request: Request) -> Dataset:
    return _load(suite, request, _EUROSAT, ("2750", "EuroSAT_RGB"))


def _load_resisc(suite: Suite, request: Request) -> Dataset:
    return _load(suite, request, _RESISC, ("NWPU-RESISC45",))


def _load(suite: Suite, request: Request, classes: Sequence[str], inner: Sequence[str]) -> Dataset:
    root = _inner(request.root, inner)
    known = {name: number for number, name in enumerate(classes)}
    found = class_folders(root, "", known, suite)
    tests = {name: fifth(len(paths)) for name, paths in found.items()}
    splits = {split: image_files(part, known) for split, part in drawn(found, tests, suite).items()}
    return files_dataset(suite, replace(request, root=root), classes, splits, inputs=[])


def _inner(root: Path, names: Sequence[str]) -> Path:
    """The folder that the archive unpacks to, where it is there; ids start below it either way."""
    return next((root / name for name in names if (root / name).is_dir()), root)


EUROSAT = Suite(
    name="eurosat",
    title="EuroSAT",
    group="in-domain",
    kind="images",
    classes=10,
    splits={"train": 21_600, "test": 5_400},
    metric="accuracy",
    source="Helber et al. 2019",
    tree="""
eurosat/
  2750/                       (EuroSAT_RGB/ in the later archive)
    AnnualCrop/AnnualCrop_1.jpg …
    Forest/
    …
""",
    witnesses=("2750", "EuroSAT_RGB", *_EUROSAT),
    folders=("EuroSAT", "EuroSAT_RGB"),
    load=_load_eurosat,
    protocol=_DRAWN,
)

RESISC45 = Suite(
    name="resisc45",
    title="NWPU-RESISC45",
    group="in-domain",
    kind="images",
    classes=45,
    splits={"train": 25_200, "test": 6_300},
    metric="accuracy",
    source="Cheng et al. 2017",
    tree="""
NWPU-RESISC45/
  airplane/airplane_001.jpg …
  airport/
  …
""",
    witnesses=("NWPU-RESISC45", *_RESISC),
    folders=("NWPU-RESISC45", "RESISC45"),
    load=_load_resisc,
    aliases=("resisc", "nwpu-resisc45"),
    protocol=_DRAWN,
)
