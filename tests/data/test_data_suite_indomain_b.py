"""The second half of the in-domain suites: Caltech-101, EuroSAT, PatchCamelyon, RESISC45, Rendered SST2."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import image_suite_samples as samples
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from suite_checks import check_rows, opened, refused

from nmtool.data.suites.listing import drawn, fifth
from nmtool.data.suites.open import suite_named

h5py = pytest.importorskip("h5py")

WRITERS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "caltech101": samples.write_caltech,
    "eurosat": samples.write_eurosat,
    "resisc45": samples.write_resisc,
    "rendered-sst2": samples.write_rendered,
    "pcam": samples.write_pcam,
}


def everything(written: dict[str, Any]) -> dict[str, Any]:
    """Id → class name and pixels, whichever split it is in."""
    parts = list(written.values())
    return written if isinstance(parts[0], tuple) else {k: each for part in parts for k, each in part.items()}


@pytest.mark.parametrize("name", WRITERS)
def test_miniature_loads_as_written(name: str, tmp_path: Path) -> None:
    wanted = everything(WRITERS[name](tmp_path))
    data = check_rows(f"suite:{name}", tmp_path)
    seen = {}
    for split, index in data.splits.items():
        for row, sample in enumerate(index.ids):
            seen[sample] = data.classes[index.labels.values[row]]
            np.testing.assert_array_equal(data.image(split, row), wanted[sample][1])
    assert seen == {sample: label for sample, (label, _) in wanted.items()}
    assert len(data.classes) == suite_named(name, name).classes
    assert any("is not the whole of" in remark for remark in data.remarks)


@pytest.mark.parametrize("name", WRITERS)
def test_changed_pixels_change_the_digest(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path)
    before = opened(f"suite:{name}", tmp_path).splits["test"]
    digest = before.digest
    if name == "pcam":
        where = tmp_path / "pcam" / "camelyonpatch_level_2_split_test_x.h5"
        shutil.copy(where, tmp_path / "new.h5")
        with h5py.File(tmp_path / "new.h5", "r+") as file:
            file["x"][0, 0, 0, 0] ^= 1
        (tmp_path / "new.h5").replace(where)
    else:
        where = next(path for path in tmp_path.rglob(before.ids[0]))
        samples.picture(where, 99_999, "PNG")
    after = opened(f"suite:{name}", tmp_path).splits["test"]
    assert after.digest != digest
    assert after.listing == before.listing


@pytest.mark.parametrize(
    ("name", "gone"),
    [
        ("caltech101", "caltech101/101_ObjectCategories"),
        ("eurosat", "eurosat/2750"),
        ("resisc45", "NWPU-RESISC45"),
        ("rendered-sst2", "rendered-sst2"),
        ("pcam", "pcam"),
    ],
)
def test_what_is_not_there_is_shown_with_the_tree(name: str, gone: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path)
    (tmp_path / gone).rename(tmp_path / "elsewhere")
    tree = suite_named(name, name).tree.strip("\n").splitlines()
    refused(f"suite:{name}", tmp_path, 66, *(line.strip() for line in tree))


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("caltech101", "caltech101/101_ObjectCategories"),
        ("eurosat", "eurosat/2750"),
        ("resisc45", "NWPU-RESISC45"),
        ("rendered-sst2", "rendered-sst2/valid"),
    ],
)
class TestClassFolders:
    def test_unknown_class(self, name: str, folder: str, tmp_path: Path) -> None:
        WRITERS[name](tmp_path)
        samples.picture(tmp_path / folder / "unheard_of" / "a.jpg", 1)
        refused(f"suite:{name}", tmp_path, 65, "unheard_of", "no class")

    def test_folder_in_a_class(self, name: str, folder: str, tmp_path: Path) -> None:
        WRITERS[name](tmp_path)
        inside = sorted((tmp_path / folder).iterdir())[0]
        (inside / "deeper").mkdir()
        refused(f"suite:{name}", tmp_path, 65, f"{inside.name}/deeper")

    def test_link_to_an_image(self, name: str, folder: str, tmp_path: Path) -> None:
        WRITERS[name](tmp_path)
        samples.picture(tmp_path / "outside.png", 1)
        inside = sorted((tmp_path / folder).iterdir())[0]
        (inside / "linked.png").symlink_to(tmp_path / "outside.png")
        refused(f"suite:{name}", tmp_path, 65, "linked.png", "link")

    def test_link_to_a_class(self, name: str, folder: str, tmp_path: Path) -> None:
        WRITERS[name](tmp_path)
        inside = sorted((tmp_path / folder).iterdir())[-1]
        inside.rename(tmp_path / "moved")
        inside.symlink_to(tmp_path / "moved")
        with pytest.raises(Exception, match=inside.name) as caught:
            opened(f"suite:{name}", tmp_path)
        assert caught.value.exit_code in (65, 66)  # type: ignore[attr-defined]

    def test_image_that_goes_away_after_it_was_listed(self, name: str, folder: str, tmp_path: Path) -> None:
        WRITERS[name](tmp_path)
        data = opened(f"suite:{name}", tmp_path)
        sample = data.splits["test"].ids[0]
        next(path for path in tmp_path.rglob(sample)).unlink()
        with pytest.raises(Exception, match=sample) as caught:
            data.image("test", 0)
        assert caught.value.exit_code == 74  # type: ignore[attr-defined]


def test_caltech_has_thirty_a_class_for_training(tmp_path: Path) -> None:
    samples.write_caltech(tmp_path)
    data = opened("suite:caltech101", tmp_path)
    counts = {
        split: {name: int(n) for name, n in Counter(data.classes[k] for k in index.labels.values).items()}
        for split, index in data.splits.items()
    }
    assert counts == {
        "train": {"BACKGROUND_Google": 30, "Faces": 3, "accordion": 1, "yin_yang": 30},
        "test": {"BACKGROUND_Google": 3, "Faces": 1, "yin_yang": 1},
    }


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("eurosat", {"AnnualCrop": 1, "Forest": 2, "SeaLake": 1}),  # of 5, 11 and 2; River has one image
        ("resisc45", {"airplane": 2, "wetland": 1}),  # of 10 and 3
    ],
)
def test_a_fifth_of_each_class_is_for_testing(name: str, wanted: dict[str, int], tmp_path: Path) -> None:
    written = WRITERS[name](tmp_path)
    data = opened(f"suite:{name}", tmp_path)
    assert Counter(data.classes[k] for k in data.splits["test"].labels.values) == wanted
    assert {*data.splits["train"].ids, *data.splits["test"].ids} == set(written)
    assert len(data.splits["train"].ids) + len(data.splits["test"].ids) == len(written)


def test_official_sizes_come_of_the_rules() -> None:
    """The rules, on the official numbers of images a class, give the sizes of the paper's Table 4."""
    eurosat = [3000, 3000, 3000, 2500, 2500, 2000, 2500, 3000, 2500, 3000]
    assert (sum(eurosat) - sum(map(fifth, eurosat)), sum(map(fifth, eurosat))) == (21_600, 5_400)
    assert (45 * 700 - 45 * fifth(700), 45 * fifth(700)) == (25_200, 6_300)
    for name, sizes in (("eurosat", (21_600, 5_400)), ("resisc45", (25_200, 6_300)), ("caltech101", (3_060, 6_084))):
        assert dict(suite_named(name, name).splits) == dict(zip(("train", "test"), sizes, strict=True))


def test_the_draw_depends_on_nothing_but_the_names(tmp_path: Path) -> None:
    samples.write_eurosat(tmp_path / "a")
    samples.write_eurosat(tmp_path / "b", "EuroSAT_RGB")
    one, two = opened("suite:eurosat", tmp_path / "a"), opened("suite:eurosat", tmp_path / "b")
    for split in ("train", "test"):
        assert one.splits[split].ids == two.splits[split].ids
        assert one.splits[split].digest == two.splits[split].digest


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), st.integers(0, 60), min_size=1), st.randoms())
def test_a_draw_is_a_partition_whatever_the_order_of_the_classes(counts: dict[str, int], shuffler: Any) -> None:
    found = {name: [f"{name}/{k:03d}" for k in range(n)] for name, n in counts.items()}
    tests = {name: fifth(len(paths)) for name, paths in found.items()}
    order = list(found)
    shuffler.shuffle(order)
    suite = suite_named("eurosat", "eurosat")
    parts = drawn(found, tests, suite)
    assert parts == drawn({name: found[name] for name in order}, tests, suite)
    for name, paths in found.items():
        assert sorted(parts["train"][name] + parts["test"][name]) == paths
        assert len(parts["test"][name]) == tests[name]


def test_the_draw_is_no_first_or_last_part(tmp_path: Path) -> None:
    samples.class_tree(tmp_path / "2750", {"Forest": 40}, lambda label, k: f"{label}_{k:02d}.jpg")
    test = list(opened("suite:eurosat", tmp_path).splits["test"].ids)
    assert len(test) == 8
    assert test not in ([f"Forest/Forest_{k:02d}.jpg" for k in part] for part in (range(8), range(32, 40)))


@pytest.mark.parametrize("gone", ["train_x", "valid_y", "test_x"])
def test_pcam_file_gone(gone: str, tmp_path: Path) -> None:
    samples.write_pcam(tmp_path)
    (tmp_path / "pcam" / f"camelyonpatch_level_2_split_{gone}.h5").unlink()
    refused("suite:pcam", tmp_path, 66, f"camelyonpatch_level_2_split_{gone}.h5", "(gunzipped)")


def test_pcam_in_chunks_and_compressed(tmp_path: Path) -> None:
    plain = samples.write_pcam(tmp_path / "a")
    samples.write_pcam(tmp_path / "b", chunks=(2, 32, 96, 3), compression="gzip", shuffle=True)
    one, two = opened("suite:pcam", tmp_path / "a"), opened("suite:pcam", tmp_path / "b")
    assert one.splits["train"].digest == two.splits["train"].digest
    np.testing.assert_array_equal(two.image("train", 6), plain["train"]["train/000006"][1])


def test_pcam_labels_that_are_no_classes(tmp_path: Path) -> None:
    samples.write_pcam(tmp_path)
    with h5py.File(tmp_path / "pcam" / "camelyonpatch_level_2_split_valid_y.h5", "r+") as file:
        file["y"][1] = 2
    refused("suite:pcam", tmp_path, 65, "val", "sample 1", "class number 2")


def test_pcam_with_too_few_labels(tmp_path: Path) -> None:
    samples.write_pcam(tmp_path)
    where = tmp_path / "pcam" / "camelyonpatch_level_2_split_train_y.h5"
    where.unlink()
    with h5py.File(where, "w") as file:
        file["y"] = np.zeros((6, 1, 1, 1), np.uint8)
    refused("suite:pcam", tmp_path, 65, "camelyonpatch_level_2_split_train_y.h5", "[6, 1, 1, 1]", "[7, 1, 1, 1]")


@pytest.mark.parametrize("shape", [(7, 96, 96), (7, 64, 96, 3), (7, 96, 96, 4)])
def test_pcam_with_images_of_another_shape(shape: tuple[int, ...], tmp_path: Path) -> None:
    samples.write_pcam(tmp_path)
    where = tmp_path / "pcam" / "camelyonpatch_level_2_split_train_x.h5"
    where.unlink()
    with h5py.File(where, "w") as file:
        file["x"] = np.zeros(shape, np.uint8)
    refused("suite:pcam", tmp_path, 65, where.name, str(list(shape)))


def test_pcam_that_changes_while_it_is_read(tmp_path: Path) -> None:
    samples.write_pcam(tmp_path)
    data = opened("suite:pcam", tmp_path)
    data.image("test", 0)
    with (tmp_path / "pcam" / "camelyonpatch_level_2_split_test_x.h5").open("ab") as stream:
        stream.write(b"more")
    with pytest.raises(Exception, match="changed while it was being read") as caught:
        data.image("test", 1)
    assert caught.value.exit_code == 65  # type: ignore[attr-defined]


def test_rendered_split_without_a_class(tmp_path: Path) -> None:
    samples.write_rendered(tmp_path)
    (tmp_path / "rendered-sst2" / "valid" / "positive").rename(tmp_path / "gone")
    refused("suite:rendered-sst2", tmp_path, 66, "valid/positive", "rendered-sst2/")


@pytest.mark.parametrize("name", WRITERS)
def test_command_line_makes_noise_on_it(name: str, tmp_path: Path, ok: Any) -> None:
    WRITERS[name](tmp_path)
    argv = ("inject-noise", f"suite:{name}", "--type", "symmetric", "--ratio", "0.5", "--bernoulli", "--json")
    ran = ok(*argv, "--data-root", tmp_path)
    data = opened(f"suite:{name}", tmp_path)
    labels = data.splits["train"].labels.values
    assert (ran.json["n"], ran.json["classes"]) == (len(labels), len(data.classes))
    assert [row["n"] for row in ran.json["per_class"]] == np.bincount(labels, minlength=len(data.classes)).tolist()
    assert "is not the whole of" in ran.err


def test_command_line_draws_the_tree_of_what_is_not_there(tmp_path: Path, nmtool: Any) -> None:
    argv = ("inject-noise", "suite:pcam", "--type", "symmetric", "--ratio", "0.5", "--data-root", tmp_path)
    ran = nmtool(*argv)
    assert ran.code == 66
    assert "camelyonpatch_level_2_split_test_y.h5" in ran.err
    assert "Traceback" not in ran.err
