"""Those of torchvision's datasets that are image files: one literal table. Nothing here imports torchvision."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from nmtool.data.torchvision.sets import Files, Part, Set, split_parts


def _image_files(found: Any) -> Iterable[tuple[Any, Any]]:
    return zip(found._image_files, found._labels, strict=True)


def _samples(found: Any) -> Iterable[tuple[Any, Any]]:
    return list(found._samples)


def _image_folder(found: Any) -> Iterable[tuple[Any, Any]]:
    return list(found.samples)


def _pets(found: Any) -> Iterable[tuple[Any, Any]]:
    return zip(found._images, found._labels, strict=True)


def _caltech(folder: str, name: str) -> Callable[[Any], Iterable[tuple[Any, Any]]]:
    """Caltech's: torchvision makes a file's name of the class and a number."""

    def read(found: Any) -> Iterable[tuple[Any, Any]]:
        for label, number in zip(found.y, found.index, strict=True):
            file = name.format(label=label + 1, number=number)
            yield Path(found.root, folder, found.categories[label], file), label

    return read


FILE_SETS: tuple[Set, ...] = (
    Set(
        name="Food101",
        home="food-101",
        parts=split_parts("train", "test", needs="meta/{split}.json"),
        rows=Files(read=_image_files, by_folder=True),
        needs=("images",),
        suite="food101",
    ),
    Set(
        name="DTD",
        home="dtd/dtd",
        parts=split_parts("train", "val", "test", needs="labels/{split}{member}.txt"),
        rows=Files(read=_image_files, by_folder=True),
        needs=("images",),
        members={str(fold): {"partition": fold} for fold in range(1, 11)},
        default="1",
        suite="dtd",
    ),
    Set(
        name="Flowers102",
        home="flowers-102",
        parts=split_parts("train", "val", "test"),
        rows=Files(read=_image_files),
        needs=("jpg", "imagelabels.mat", "setid.mat"),
        md5=True,
        suite="flowers102",
        extra="scipy",
    ),
    Set(
        name="OxfordIIITPet",
        home="oxford-iiit-pet",
        parts=split_parts("test", needs="annotations/{split}.txt", train="trainval"),
        rows=Files(read=_pets),
        needs=("images",),
        suite="oxfordpet",
    ),
    Set(
        name="StanfordCars",
        home="stanford_cars",
        parts={
            "train": Part(args={"split": "train"}, needs=("devkit/cars_train_annos.mat", "cars_train")),
            "test": Part(args={"split": "test"}, needs=("cars_test_annos_withlabels.mat", "cars_test")),
        },
        rows=Files(read=_samples),
        needs=("devkit/cars_meta.mat",),
        suite="stanfordcars",
        extra="scipy",
    ),
    Set(
        name="FGVCAircraft",
        home="fgvc-aircraft-2013b",
        parts=split_parts("train", "val", "trainval", "test", needs="data/images_{member}_{split}.txt"),
        rows=Files(read=_image_files),
        needs=("data/images",),
        members={each: {"annotation_level": each} for each in ("variant", "family", "manufacturer")},
        default="variant",
        suite="fgvcaircraft",
    ),
    Set(
        name="Caltech101",
        home="caltech101",
        parts={"train": Part()},
        rows=Files(read=_caltech("101_ObjectCategories", "image_{number:04d}.jpg"), by_folder=True),
        needs=("101_ObjectCategories",),
        reads=("101_ObjectCategories",),
        classes=lambda found: found.categories,
        suite="caltech101",
    ),
    Set(
        name="Caltech256",
        home="caltech256",
        parts={"train": Part()},
        rows=Files(read=_caltech("256_ObjectCategories", "{label:03d}_{number:04d}.jpg"), by_folder=True),
        needs=("256_ObjectCategories",),
        reads=("256_ObjectCategories",),
        classes=lambda found: found.categories,
    ),
    Set(
        name="EuroSAT",
        home="eurosat",
        parts={"train": Part()},
        rows=Files(read=_image_folder, by_folder=True),
        needs=("2750",),
        reads=("2750",),
        suite="eurosat",
    ),
    Set(
        name="SUN397",
        home="SUN397",
        parts={"train": Part()},
        rows=Files(read=_image_files, by_folder=True),
        needs=("ClassName.txt",),
    ),
    Set(
        name="Country211",
        home="country211",
        parts=split_parts("train", "test", needs="{split}", val="valid"),
        rows=Files(read=_image_folder, by_folder=True),
    ),
    Set(
        name="RenderedSST2",
        home="rendered-sst2",
        parts={
            split: Part(args={"split": split}, needs=(f"{folder}/negative", f"{folder}/positive"))
            for split, folder in (("train", "train"), ("val", "valid"), ("test", "test"))
        },
        rows=Files(read=_samples, by_folder=True),
        suite="rendered-sst2",
    ),
    Set(
        name="ImageNet",
        home="",
        parts={split: Part(args={"split": split}, needs=(split,), optional=True) for split in ("train", "val")},
        rows=Files(read=_image_folder, by_folder=True),
        # without it torchvision would write it, and without the folders it would unpack archives into them
        needs=("meta.bin",),
        reads=("meta.bin", "train", "val"),
        # some classes share their first name
        classes=lambda found: found.wnids,
        suite="imagenet",
    ),
    Set(
        name="Imagenette",
        home="imagenette2",
        parts=split_parts("train", "val", needs="{split}"),
        rows=Files(read=_samples, by_folder=True),
        classes=lambda found: found.wnids,
        members={each: {"size": each} for each in ("full", "320px", "160px")},
        homes={"320px": "imagenette2-320", "160px": "imagenette2-160"},
        default="full",
    ),
    Set(
        name="Places365",
        home="",
        parts={
            "train": Part(
                args={"split": "train-standard"},
                needs=("places365_train_standard.txt", "data_{member}_standard"),
                optional=True,
            ),
            "val": Part(args={"split": "val"}, needs=("places365_val.txt", "val_{member}"), optional=True),
            "test": Part(args={"split": "test"}, needs=("places365_test.txt", "test_{member}"), optional=True),
        },
        rows=Files(read=lambda found: list(found.imgs)),
        needs=("categories_places365.txt",),
        reads=(
            "categories_places365.txt",
            *(f"places365_{part}.txt" for part in ("train_standard", "val", "test")),
            *("data_{member}_standard", "val_{member}", "test_{member}"),
        ),
        classes=lambda found: sorted(found.class_to_idx, key=found.class_to_idx.__getitem__),
        members={"large": {"small": False}, "256": {"small": True}},
        default="large",
        md5=True,
    ),
)
