"""Caltech-101: a folder of images for each of 101 categories and one of background clutter. It has no split of its own.

As is usual, 30 images of a class are for training and the rest for testing (CLIP, VTAB and TensorFlow Datasets do so,
each with its own draw); here they are drawn by ``listing.drawn`` from seed 0, the same everywhere. Where a class has
fewer than 31 images, one is for testing and the rest are for training. Labels number the sorted folder names.
"""

from __future__ import annotations

from dataclasses import replace

from nmtool.data.dataset import Dataset
from nmtool.data.suites.facts import Request, Suite
from nmtool.data.suites.listing import class_folders, drawn, image_files
from nmtool.data.suites.samples import files_dataset

_FOLDER = "101_ObjectCategories"
_TRAINING = 30
# The folders of 101_ObjectCategories.tar.gz; TensorFlow Datasets lists the same in lower case.
_NAMES = """
BACKGROUND_Google Faces Faces_easy Leopards Motorbikes accordion airplanes anchor ant barrel bass beaver binocular
bonsai brain brontosaurus buddha butterfly camera cannon car_side ceiling_fan cellphone chair chandelier cougar_body
cougar_face crab crayfish crocodile crocodile_head cup dalmatian dollar_bill dolphin dragonfly electric_guitar elephant
emu euphonium ewer ferry flamingo flamingo_head garfield gerenuk gramophone grand_piano hawksbill headphone hedgehog
helicopter ibis inline_skate joshua_tree kangaroo ketch lamp laptop llama lobster lotus mandolin mayfly menorah
metronome minaret nautilus octopus okapi pagoda panda pigeon pizza platypus pyramid revolver rhino rooster saxophone
schooner scissors scorpion sea_horse snoopy soccer_ball stapler starfish stegosaurus stop_sign strawberry sunflower
tick trilobite umbrella watch water_lilly wheelchair wild_cat windsor_chair wrench yin_yang
"""
_CLASSES = tuple(_NAMES.split())


def _load(suite: Suite, request: Request) -> Dataset:
    inner = request.root / _FOLDER
    root = inner if inner.is_dir() else request.root
    known = {name: number for number, name in enumerate(_CLASSES)}
    found = class_folders(root, "", known, suite)
    tests = {name: len(paths) - max(1, min(_TRAINING, len(paths) - 1)) if paths else 0 for name, paths in found.items()}
    splits = {split: image_files(part, known) for split, part in drawn(found, tests, suite).items()}
    return files_dataset(suite, replace(request, root=root), _CLASSES, splits, inputs=[])


CALTECH101 = Suite(
    name="caltech101",
    title="Caltech-101",
    group="in-domain",
    kind="images",
    classes=102,
    splits={"train": 3_060, "test": 6_084},
    metric="mean per class",
    source="Fei-Fei et al. 2004",
    tree="""
caltech101/
  101_ObjectCategories/
    BACKGROUND_Google/
    Faces/
    accordion/image_0001.jpg …
    …
""",
    witnesses=(_FOLDER, *_CLASSES),
    folders=("caltech-101", "Caltech101", _FOLDER),
    load=_load,
    aliases=("caltech",),
    note="the 102nd class is BACKGROUND_Google, which torchvision leaves out",
    protocol="no official split: 30 images a class for training, drawn by nmtool from seed 0, the other 6,084 for "
    "testing; the papers' own draw is not published",
)
