"""``suite:imagenet`` in its three layouts, and its six variants, whose labels are ImageNet-1K's."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import image_suite_samples as samples
import numpy as np
import pytest
from image_suite_samples import GOLDFISH, GREAT_WHITE, TENCH, TOILET_TISSUE
from PIL import Image
from suite_checks import check_rows, opened, refused

from nmtool.data import classlists
from nmtool.data.dataset import Dataset
from nmtool.data.index import split_digest
from nmtool.data.suites.open import suite_named
from nmtool.errors import NmtoolError

WRITERS: dict[str, Callable[[Path], samples.Written]] = {
    "imagenet": samples.write_imagenet,
    "imagenet-v2": lambda root: {"test": samples.write_imagenet_v2(root)["matched-frequency"]},
    "imagenet-r": lambda root: samples.write_wnids(root, "imagenet-r", (GOLDFISH, GREAT_WHITE)),
    "imagenet-sketch": lambda root: samples.write_wnids(root, "imagenet-sketch/sketch", (TENCH, TOILET_TISSUE)),
    "imagenet-a": lambda root: samples.write_wnids(root, "imagenet-a", ("n01498041", "n12267677")),
    "imagenet-vid": samples.write_vid,
    "objectnet": samples.write_objectnet,
}
HOMES = {
    "imagenet": "imagenet",
    "imagenet-v2": "imagenetv2",
    "imagenet-r": "imagenet-r",
    "imagenet-sketch": "imagenet-sketch",
    "imagenet-a": "imagenet-a",
    "imagenet-vid": "imagenet-vid-robust",
    "objectnet": "objectnet-1.0",
}


def labelled(data: Dataset, split: str) -> dict[str, str]:
    index = data.splits[split]
    return {sample: data.classes[k] for sample, k in zip(index.ids, index.labels.values, strict=True)}


@pytest.mark.parametrize("name", WRITERS)
def test_miniature_loads_as_written(name: str, tmp_path: Path) -> None:
    written = WRITERS[name](tmp_path)
    data = check_rows(f"suite:{name}", tmp_path)
    assert set(data.splits) == set(written)
    for split, wanted in written.items():
        assert labelled(data, split) == {sample: wnid for sample, (wnid, _) in wanted.items()}
        for row, sample in enumerate(data.splits[split].ids):
            pixels = wanted[sample][1]
            inner = pixels[2:-2, 2:-2] if name == "objectnet" else pixels
            np.testing.assert_array_equal(data.image(split, row), inner)
    assert data.classes == classlists.wnids()
    assert any("is not the whole of" in remark for remark in data.remarks)


@pytest.mark.parametrize("name", WRITERS)
def test_nothing_there_shows_the_tree(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path / "elsewhere")
    tree = suite_named(name, name).tree.strip("\n").splitlines()
    refused(f"suite:{name}", tmp_path, 66, *(line.strip() for line in tree))


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("imagenet", "train"),
        ("imagenet", "val"),
        ("imagenet-v2", "imagenetv2-matched-frequency-format-val"),
        ("imagenet-r", ""),
        ("imagenet-sketch", "sketch"),
        ("imagenet-a", ""),
        ("objectnet", "images"),
    ],
)
@pytest.mark.parametrize("strange", ["n99999999", "n1440764", "1000", "010", "tench"])
def test_unknown_class(name: str, folder: str, strange: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path)
    samples.picture(tmp_path / HOMES[name] / folder / strange / "a.jpg", 1)
    refused(f"suite:{name}", tmp_path, 65, strange, "no class")


@pytest.mark.parametrize("name", ["imagenet-r", "imagenet-a"])
def test_class_of_imagenet_that_the_variant_has_not(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path)
    samples.picture(tmp_path / name / TENCH / "a.jpg", 1)
    refused(f"suite:{name}", tmp_path, 65, TENCH, "200 classes")


@pytest.mark.parametrize("name", WRITERS)
def test_image_that_goes_away(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path)
    data = opened(f"suite:{name}", tmp_path)
    split = "val" if name == "imagenet" else "test"
    sample = data.splits[split].ids[0]
    min(tmp_path.rglob(sample)).unlink()  # ImageNet-V2 has it in each of its parts
    for act in (lambda: data.image(split, 0), lambda: data.splits[split].digest):
        with pytest.raises(Exception, match=sample) as caught:
            act()
        assert caught.value.exit_code in (65, 74)  # type: ignore[attr-defined]


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("imagenet-vid", "metadata/labels.json"),
        ("objectnet", "mappings/objectnet_to_imagenet_1k.json"),
        ("imagenet", "LOC_val_solution.csv"),
        ("imagenet", "data/meta.mat"),
        ("imagenet", "data/ILSVRC2012_validation_ground_truth.txt"),
    ],
)
def test_pipe_in_a_files_place(name: str, file: str, tmp_path: Path) -> None:
    """It would be waited for."""
    home = tmp_path / HOMES[name]
    if name == "imagenet":
        samples.write_flat_val(home)
        samples.write_kit(home, {1: TENCH}, [1, 1, 1])
    else:
        WRITERS[name](tmp_path)
    (home / file).unlink(missing_ok=True)
    os.mkfifo(home / file)
    with pytest.raises(NmtoolError, match=f"{file.split('/')[-1]} is no file"):
        opened(f"suite:{name}", tmp_path)


class TestImageNet:
    def test_kaggle_has_the_same_rows(self, tmp_path: Path) -> None:
        samples.write_imagenet(tmp_path / "a")
        samples.write_imagenet(tmp_path / "b", "imagenet/ILSVRC/Data/CLS-LOC")
        one, two = opened("suite:imagenet", tmp_path / "a"), opened("suite:imagenet", tmp_path / "b")
        assert one.splits["train"].digest == two.splits["train"].digest

    def test_either_half_will_do(self, tmp_path: Path) -> None:
        samples.write_imagenet(tmp_path)
        (tmp_path / "imagenet" / "train").rename(tmp_path / "gone")
        assert set(opened("suite:imagenet", tmp_path).splits) == {"val"}

    @pytest.mark.parametrize("place", ["imagenet", "imagenet/ILSVRC/Data/CLS-LOC"])
    def test_flat_with_kaggles_table(self, place: str, tmp_path: Path) -> None:
        pixels = samples.write_flat_val(tmp_path / place)
        samples.write_solution(tmp_path / "imagenet" / "LOC_val_solution.csv", [GREAT_WHITE, TENCH, TOILET_TISSUE])
        data = check_rows("suite:imagenet", tmp_path)
        assert list(labelled(data, "val").values()) == [GREAT_WHITE, TENCH, TOILET_TISSUE]
        np.testing.assert_array_equal(data.image("val", 2), pixels["val/ILSVRC2012_val_00000003.JPEG"])

    @pytest.mark.parametrize("kit", ["ILSVRC2012_devkit_t12", ""])
    def test_flat_with_the_development_kit(self, kit: str, tmp_path: Path) -> None:
        home = tmp_path / "imagenet"
        samples.write_flat_val(home)
        samples.write_kit(home / kit, {490: GOLDFISH, 3: TENCH, 7: GREAT_WHITE}, [7, 490, 490])
        data = check_rows("suite:imagenet", tmp_path)
        assert list(labelled(data, "val").values()) == [GREAT_WHITE, GOLDFISH, GOLDFISH]

    def test_flat_without_labels(self, tmp_path: Path) -> None:
        samples.write_flat_val(tmp_path / "imagenet")
        refused("suite:imagenet", tmp_path, 66, "LOC_val_solution.csv", "ground_truth.txt", "n01440764")

    def test_kit_without_its_synsets(self, tmp_path: Path) -> None:
        samples.write_flat_val(tmp_path / "imagenet")
        samples.write_kit(tmp_path / "imagenet", {1: TENCH}, [1, 1, 1])
        (tmp_path / "imagenet" / "data" / "meta.mat").unlink()
        refused("suite:imagenet", tmp_path, 66, "meta.mat")

    def test_fewer_images_than_labels(self, tmp_path: Path) -> None:
        samples.write_flat_val(tmp_path / "imagenet")
        samples.write_solution(tmp_path / "imagenet" / "LOC_val_solution.csv", [TENCH] * 5)
        refused("suite:imagenet", tmp_path, 66, "2 of 5", "ILSVRC2012_val_00000004.JPEG")

    def test_more_images_than_labels(self, tmp_path: Path) -> None:
        samples.write_flat_val(tmp_path / "imagenet")
        samples.write_kit(tmp_path / "imagenet", {1: TENCH}, [1, 1])
        refused("suite:imagenet", tmp_path, 65, "ILSVRC2012_val_00000003.JPEG", "no label")

    @pytest.mark.parametrize("wrong", ["n99999999 1 2 3 4", "", "tench"])
    def test_table_with_an_unknown_class(self, wrong: str, tmp_path: Path) -> None:
        samples.write_flat_val(tmp_path / "imagenet")
        table = tmp_path / "imagenet" / "LOC_val_solution.csv"
        table.write_text(f"ImageId,PredictionString\nILSVRC2012_val_00000001,{wrong}\n")
        refused("suite:imagenet", tmp_path, 65, "line 2 of LOC_val_solution.csv")

    def test_table_that_climbs(self, tmp_path: Path) -> None:
        samples.write_flat_val(tmp_path / "imagenet")
        samples.picture(tmp_path / "outside.JPEG", 1)
        samples.write_solution(tmp_path / "imagenet" / "LOC_val_solution.csv", [TENCH] * 3)
        with (tmp_path / "imagenet" / "LOC_val_solution.csv").open("a") as stream:
            stream.write(f"../../outside,{TENCH} 1 2 3 4\n")
        refused("suite:imagenet", tmp_path, 65, "../../outside.JPEG")

    def test_table_with_other_columns(self, tmp_path: Path) -> None:
        samples.write_flat_val(tmp_path / "imagenet")
        (tmp_path / "imagenet" / "LOC_val_solution.csv").write_text("file,label\n")
        refused("suite:imagenet", tmp_path, 65, "ImageId and PredictionString")

    @pytest.mark.parametrize("wrong", ["2", "0", "1001", "one", "-1"])
    def test_ground_truth_with_an_unknown_class(self, wrong: str, tmp_path: Path) -> None:
        samples.write_flat_val(tmp_path / "imagenet")
        samples.write_kit(tmp_path / "imagenet", {1: TENCH}, [1, 1, 1])
        (tmp_path / "imagenet" / "data" / "ILSVRC2012_validation_ground_truth.txt").write_text(f"1\n{wrong}\n1\n")
        refused("suite:imagenet", tmp_path, 65, "line 2 of ILSVRC2012_validation_ground_truth.txt", repr(wrong))

    def test_synsets_that_are_no_classes(self, tmp_path: Path) -> None:
        samples.write_flat_val(tmp_path / "imagenet")
        samples.write_kit(tmp_path / "imagenet", {1: "n00000001"}, [1, 1, 1])
        refused("suite:imagenet", tmp_path, 65, "meta.mat", "n00000001")

    def test_synsets_with_one_id_twice(self, tmp_path: Path) -> None:
        samples.write_flat_val(tmp_path / "imagenet")
        samples.write_kit(tmp_path / "imagenet", {1: TENCH, 1.0000001: GOLDFISH}, [1, 1, 1])
        refused("suite:imagenet", tmp_path, 65, "meta.mat", "class id 1 twice")

    @pytest.mark.parametrize("body", [b"", b"no matlab", b"MATLAB 5.0 MAT-file" + bytes(200)])
    def test_damaged_synsets(self, body: bytes, tmp_path: Path) -> None:
        samples.write_flat_val(tmp_path / "imagenet")
        samples.write_kit(tmp_path / "imagenet", {1: TENCH}, [1, 1, 1])
        (tmp_path / "imagenet" / "data" / "meta.mat").write_bytes(body)
        refused("suite:imagenet", tmp_path, 65, "meta.mat")

    def test_flat_and_folders_mixed(self, tmp_path: Path) -> None:
        samples.write_imagenet(tmp_path)
        samples.picture(tmp_path / "imagenet" / "val" / "ILSVRC2012_val_00000009.JPEG", 1)
        refused("suite:imagenet", tmp_path, 65, "ILSVRC2012_val_00000009.JPEG", TENCH)

    def test_no_class_folder(self, tmp_path: Path) -> None:
        (tmp_path / "imagenet" / "train").mkdir(parents=True)
        refused("suite:imagenet", tmp_path, 65, "no class folder in 'train/'", "n01440764_10026.JPEG")


class TestVariants:
    @pytest.mark.parametrize(
        ("member", "part"),
        [("matched-frequency", "matched-frequency"), ("threshold-0.7", "threshold0.7"), ("top-images", "top-images")],
    )
    def test_v2_by_member(self, member: str, part: str, tmp_path: Path) -> None:
        written = samples.write_imagenet_v2(tmp_path)[part]
        data = check_rows(f"suite:imagenet-v2/{member}", tmp_path)
        assert labelled(data, "test") == {sample: wnid for sample, (wnid, _) in written.items()}

    def test_v2_without_the_usual_member(self, tmp_path: Path) -> None:
        samples.write_imagenet_v2(tmp_path)
        (tmp_path / "imagenetv2" / "imagenetv2-matched-frequency-format-val").rename(tmp_path / "gone")
        refused("suite:imagenet-v2", tmp_path, 66, "imagenetv2-matched-frequency-format-val", "class numbers, 0 to 999")
        assert len(opened("suite:imagenet-v2/top-images", tmp_path).splits["test"].ids) == 6

    def test_v2_folders_are_numbers_not_places(self, tmp_path: Path) -> None:
        samples.write_imagenet_v2(tmp_path)
        index = opened("suite:imagenet-v2", tmp_path).splits["test"]
        assert {int(sample.split("/")[0]) for sample in index.ids} == set(index.labels.values.tolist()) == {0, 2, 10}

    @pytest.mark.parametrize("name", ["imagenet-r", "imagenet-a"])
    def test_data_root_may_be_the_folder_itself(self, name: str, tmp_path: Path) -> None:
        first = {"imagenet-r": GOLDFISH, "imagenet-a": "n01498041"}[name]
        written = samples.write_wnids(tmp_path, name, (first,))
        one, two = opened(f"suite:{name}", tmp_path), opened(f"suite:{name}", tmp_path / name)
        assert one.splits["test"].digest == two.splits["test"].digest
        assert list(one.splits["test"].ids) == sorted(written["test"])


class TestObjectNet:
    def mapping(self, root: Path, name: str, **changes: str) -> None:
        path = root / "objectnet-1.0" / "mappings" / f"{name}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    def test_what_imagenet_has_not_is_left_out(self, tmp_path: Path) -> None:
        samples.write_objectnet(tmp_path)
        assert not [sample for sample in opened("suite:objectnet", tmp_path).splits["test"].ids if "squeegee" in sample]

    def test_it_says_that_labels_are_groups(self, tmp_path: Path) -> None:
        samples.write_objectnet(tmp_path)
        assert any("stand for groups" in remark for remark in opened("suite:objectnet", tmp_path).remarks)

    def test_the_border_is_part_of_the_identity(self, tmp_path: Path) -> None:
        """Else features of the whole images and of those without the border would share a key."""
        samples.write_objectnet(tmp_path)
        data = opened("suite:objectnet", tmp_path)
        index = data.splits["test"]
        contents = [
            hashlib.sha256((tmp_path / "objectnet-1.0" / sample).read_bytes()).hexdigest() for sample in index.ids
        ]
        whole = split_digest("images", data.classes, list(index.ids), contents, index.labels.values)
        assert index.digest != whole

    def test_image_that_is_all_border(self, tmp_path: Path) -> None:
        samples.write_objectnet(tmp_path)
        Image.new("RGB", (4, 40)).save(tmp_path / "objectnet-1.0" / "images" / "chair" / "0a.png")
        data = opened("suite:objectnet", tmp_path)
        row = list(data.splits["test"].ids).index("images/chair/0a.png")
        with pytest.raises(Exception, match=r"images/chair/0a\.png is 4 x 40 pixels"):
            data.image("test", row)

    @pytest.mark.parametrize("name", ["folder_to_objectnet_label", "objectnet_to_imagenet_1k"])
    def test_mapping_gone(self, name: str, tmp_path: Path) -> None:
        samples.write_objectnet(tmp_path)
        (tmp_path / "objectnet-1.0" / "mappings" / f"{name}.json").unlink()
        refused("suite:objectnet", tmp_path, 66, f"{name}.json", "objectnet-1.0/")

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"Banana": "bananas"}, ("'Banana'", "'bananas'")),
            ({"Banana": "crane"}, ("'Banana'", "'crane'")),  # the name of two classes
            ({"Banana": "lemon; orange"}, ("'Banana'", "lemon; orange")),
            ({"Chair": "barber chair"}, ("'Chair'", "barber chair")),
            ({"Unicorn": "banana"}, ("'Unicorn'",)),
            ({"Banana": ["banana"]}, ("'Banana'",)),
        ],
    )
    def test_mapping_that_is_another(self, changes: dict[str, Any], words: tuple[str, ...], tmp_path: Path) -> None:
        samples.write_objectnet(tmp_path)
        self.mapping(tmp_path, "objectnet_to_imagenet_1k", **changes)
        refused("suite:objectnet", tmp_path, 65, *words)

    @pytest.mark.parametrize("body", ["", "[]", "{", '{"a": ' * 3000])
    def test_mapping_that_is_none(self, body: str, tmp_path: Path) -> None:
        samples.write_objectnet(tmp_path)
        (tmp_path / "objectnet-1.0" / "mappings" / "objectnet_to_imagenet_1k.json").write_text(body)
        refused("suite:objectnet", tmp_path, 65, "objectnet_to_imagenet_1k.json")


class TestVid:
    def body(self, root: Path, name: str, change: Callable[[Any], Any]) -> None:
        path = root / "imagenet-vid-robust" / name
        path.write_text(json.dumps(change(json.loads(path.read_text()))))

    def test_it_says_what_labels_are(self, tmp_path: Path) -> None:
        samples.write_vid(tmp_path)
        remarks = " ".join(opened("suite:imagenet-vid", tmp_path).remarks)
        assert "stand for groups" in remarks
        assert "1 frames of suite:imagenet-vid show several classes" in remarks

    @pytest.mark.parametrize(
        "name",
        ["metadata/pmsets.json", "metadata/labels.json", "misc/wnid_map.json", "misc/imagenet_vid_class_index.json"],
    )
    def test_file_gone(self, name: str, tmp_path: Path) -> None:
        samples.write_vid(tmp_path)
        (tmp_path / "imagenet-vid-robust" / name).unlink()
        refused("suite:imagenet-vid", tmp_path, 66, name.split("/")[1], "imagenet-vid-robust/")

    def test_frame_gone(self, tmp_path: Path) -> None:
        sample = min(samples.write_vid(tmp_path)["test"])
        (tmp_path / "imagenet-vid-robust" / sample).unlink()
        refused("suite:imagenet-vid", tmp_path, 66, sample)

    @pytest.mark.parametrize("wrong", [30, -1, "8", True, 1.0, None])
    def test_class_out_of_range(self, wrong: Any, tmp_path: Path) -> None:
        sample = min(samples.write_vid(tmp_path)["test"])
        self.body(tmp_path, "metadata/labels.json", lambda body: {**body, sample: [26, wrong]})
        refused("suite:imagenet-vid", tmp_path, 65, sample, "0 to 29")

    @pytest.mark.parametrize("wrong", [[], 8, None])
    def test_frame_without_a_class(self, wrong: Any, tmp_path: Path) -> None:
        sample = min(samples.write_vid(tmp_path)["test"])
        self.body(tmp_path, "metadata/labels.json", lambda body: {**body, sample: wrong})
        refused("suite:imagenet-vid", tmp_path, 65, sample, "no label")

    def test_anchor_that_climbs(self, tmp_path: Path) -> None:
        samples.write_vid(tmp_path)
        samples.picture(tmp_path / "outside.JPEG", 1)
        self.body(tmp_path, "metadata/pmsets.json", lambda body: {**body, "val/../../outside.JPEG": []})
        self.body(tmp_path, "metadata/labels.json", lambda body: {**body, "val/../../outside.JPEG": [8]})
        refused("suite:imagenet-vid", tmp_path, 65, "outside.JPEG")

    @pytest.mark.parametrize(
        ("name", "change"),
        [
            ("misc/wnid_map.json", {"n02085620": "n01662784"}),  # a dog as a turtle
            ("misc/wnid_map.json", {"n99999999": "n02084071"}),
            ("misc/wnid_map.json", {TENCH: "n02084071"}),
            ("misc/imagenet_vid_class_index.json", {"30": ["n1", "thirty-first"]}),
            ("misc/imagenet_vid_class_index.json", {"8": ["n01662784", "turtle"]}),
            ("misc/imagenet_vid_class_index.json", {"8": "dog"}),
        ],
    )
    def test_mapping_that_is_another(self, name: str, change: dict[str, Any], tmp_path: Path) -> None:
        samples.write_vid(tmp_path)
        self.body(tmp_path, name, lambda body: {**body, **change})
        refused("suite:imagenet-vid", tmp_path, 65, name.split("/")[1] if "class_index" not in name else ".json")


class TestClassLists:
    def test_classes_are_the_published_order(self) -> None:
        wnids = classlists.wnids()
        assert len(set(wnids)) == 1000
        assert (wnids[0], wnids[1], wnids[2], wnids[999]) == (TENCH, GOLDFISH, GREAT_WHITE, TOILET_TISSUE)
        assert classlists.names()[817] == "sports car, sport car"

    def test_sizes_of_the_subsets(self) -> None:
        sizes = {name: len(classlists.subset_of(name) or range(1000)) for name in WRITERS}
        assert sizes == {
            **{"imagenet": 1000, "imagenet-v2": 1000, "imagenet-sketch": 1000, "imagenet-r": 200, "imagenet-a": 200},
            **{"imagenet-vid": 288, "objectnet": 125},
        }

    def test_subsets_are_those_that_the_authors_test_on(self) -> None:
        """The first and last of timm's index lists for -A and -R; 14,400 and 6,250 validation images of the others."""
        assert (classlists.subset_of("imagenet-a") or ())[:3] == (6, 11, 13)
        assert (classlists.subset_of("imagenet-r") or ())[:3] == (1, 2, 4)
        for name, images in (("imagenet-vid", 14_400), ("objectnet", 6_250)):
            assert 50 * len(classlists.subset_of(name) or ()) == images

    def test_groups_are_apart_and_cover_the_subset(self) -> None:
        for name, n in (("imagenet-vid", 30), ("objectnet", 113)):
            groups = classlists.groups_of(name) or ()
            assert len(groups) == n
            assert all(list(group) == sorted(group) for group in groups)
            assert tuple(sorted(number for group in groups for number in group)) == classlists.subset_of(name)
        assert classlists.groups_of("imagenet-r") is None
        assert classlists.groups_of("ImageNet-Vid-Robust") == classlists.groups_of("imagenet-vid")
        assert classlists.subset_of("imagenet_r") == classlists.subset_of("imagenet-r")

    def test_groups_mean_what_they_are_called(self) -> None:
        names = classlists.names()
        vid = classlists.VID_GROUPS
        assert {names[k].split(",")[0] for k in vid[9]} == {
            *("tabby", "tiger cat", "Persian cat", "Siamese cat", "Egyptian cat")
        }
        assert [names[vid[k][0]].split(",")[0] for k in (0, 12, 15, 24, 29)] == [
            *("airliner", "giant panda", "lion", "tiger", "zebra")
        ]
        chairs = next(group for group in classlists.OBJECTNET_GROUPS if len(group) == 3 and 423 in group)
        assert [names[k] for k in chairs] == ["barber chair", "folding chair", "rocking chair, rocker"]

    def test_timm_is_not_imported(self) -> None:
        code = "import sys; from nmtool.data import classlists as c; c.names(); print('timm' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", WRITERS)
def test_command_line_makes_noise_on_it(name: str, tmp_path: Path, ok: Any) -> None:
    written = WRITERS[name](tmp_path)
    split = "train" if name == "imagenet" else "test"
    argv = ("inject-noise", f"suite:{name}", "--type", "symmetric", "--ratio", "0.5", "--split", split, "--json")
    ran = ok(*argv, "--data-root", tmp_path)
    assert (ran.json["n"], ran.json["classes"]) == (len(written[split]), 1000)
    assert "is not the whole of" in ran.err
