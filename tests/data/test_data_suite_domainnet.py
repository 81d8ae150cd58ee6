"""``suite:domainnet``: six domains by their official lists, alone or together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import image_suite_samples as samples
import numpy as np
import pytest
from suite_checks import check_rows, opened, refused

from nmtool.data.suites.domainnet import DOMAINNET, DOMAINNET_PARTS
from nmtool.data.suites.open import open_suite
from nmtool.errors import UsageError


def edit(root: Path, name: str, before: str, after: str) -> None:
    path = root / "domainnet" / name
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


def test_miniature_loads_as_written(tmp_path: Path) -> None:
    written = samples.write_domainnet(tmp_path)
    data = check_rows("suite:domainnet", tmp_path)
    assert set(data.splits) == set(written) == {"real/train", "real/test", "sketch/train", "sketch/test"}
    for split, index in data.splits.items():
        assert {s: data.classes[k] for s, k in zip(index.ids, index.labels.values, strict=True)} == {
            sample: name for sample, (name, _) in written[split].items()
        }
        for row, sample in enumerate(index.ids):
            np.testing.assert_array_equal(data.image(split, row), written[split][sample][1])
    assert len(data.classes) == 345
    assert [data.classes.index(name) for name in samples.DOMAINNET_CLASSES] == [0, 1, 309, 344]
    assert any("without clipart, infograph, painting, quickdraw" in remark for remark in data.remarks)
    assert any("4 of 345 classes" in remark for remark in data.remarks)


@pytest.mark.parametrize("domain", ["real", "sketch"])
def test_one_domain_is_that_part_of_the_whole(domain: str, tmp_path: Path) -> None:
    samples.write_domainnet(tmp_path)
    whole, part = opened("suite:domainnet", tmp_path), check_rows(f"suite:domainnet/{domain}", tmp_path)
    assert set(part.splits) == {"train", "test"}
    assert part.classes == whole.classes
    for split, index in part.splits.items():
        assert index.digest == whole.splits[f"{domain}/{split}"].digest
    sizes = {"real": "120906", "sketch": "48212"}
    assert any(f"train: 12 samples, officially {sizes[domain]}" in remark for remark in part.remarks)
    assert not any("without" in remark for remark in part.remarks)


def test_class_numbers_mean_the_same_where_a_domain_is_alone(tmp_path: Path) -> None:
    samples.write_domainnet(tmp_path / "one", ("sketch",))
    samples.write_domainnet(tmp_path / "two", ("real", "sketch"))
    one, two = opened("suite:domainnet/sketch", tmp_path / "one"), opened("suite:domainnet", tmp_path / "two")
    assert one.classes == two.classes


def test_sizes_are_those_of_the_paper_and_of_the_whole_lists() -> None:
    assert {part.name: dict(part.splits) for part in DOMAINNET_PARTS}["domainnet/sketch"] == {
        "train": 48_212,
        "test": 20_916,
    }
    of = {
        part: sum(n for split, n in DOMAINNET.splits.items() if split.endswith(part) and n)
        for part in ("train", "test")
    }
    assert of == {"train": 409_832, "test": 176_743}  # as the dataset's copy on the Hugging Face hub counts them


@pytest.mark.parametrize("gone", ["real_train.txt", "sketch_test.txt"])
def test_list_gone(gone: str, tmp_path: Path) -> None:
    samples.write_domainnet(tmp_path)
    (tmp_path / "domainnet" / gone).unlink()
    refused("suite:domainnet", tmp_path, 66, gone, "real_train.txt         such as")


def test_domain_that_is_not_there(tmp_path: Path) -> None:
    samples.write_domainnet(tmp_path)
    refused("suite:domainnet/clipart", tmp_path, 66, "clipart_train.txt and clipart_test.txt", "domainnet/")


def test_domain_that_there_is_not(tmp_path: Path) -> None:
    samples.write_domainnet(tmp_path)
    with pytest.raises(UsageError, match="did you mean suite:domainnet/sketch"):
        opened("suite:domainnet/sketches", tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    refused("suite:domainnet", tmp_path, 66, "clipart_train.txt", "domainnet/")


def test_image_gone(tmp_path: Path) -> None:
    written = samples.write_domainnet(tmp_path)
    sample = min(written["sketch/test"])
    (tmp_path / "domainnet" / sample).unlink()
    refused("suite:domainnet", tmp_path, 66, sample, "1 of 8")


def test_domains_that_disagree_on_a_name(tmp_path: Path) -> None:
    samples.write_domainnet(tmp_path)
    edit(tmp_path, "sketch_test.txt", "sketch/airplane/sketch_002_000010.jpg 1", "sketch/zeppelin/a.jpg 1")
    refused("suite:domainnet", tmp_path, 65, "sketch_test.txt", "'zeppelin' 1", "'airplane'", "real_train.txt")


def test_domains_that_disagree_on_a_number(tmp_path: Path) -> None:
    samples.write_domainnet(tmp_path)
    edit(tmp_path, "sketch_train.txt", "000000.jpg 344", "000000.jpg 343")
    refused("suite:domainnet", tmp_path, 65, "line 1 of sketch_train.txt", "'zigzag' 343", "344", "real_train.txt")


@pytest.mark.parametrize("number", ["345", "99999999999999999999", "4294967296"])
def test_number_out_of_range(number: str, tmp_path: Path) -> None:
    samples.write_domainnet(tmp_path)
    edit(tmp_path, "real_train.txt", "000000.jpg 344", f"000000.jpg {number}")
    refused("suite:domainnet", tmp_path, 65, "line 1 of real_train.txt", number, "0 to 344")


@pytest.mark.parametrize(
    "line",
    [
        "../../../etc/passwd 0",
        "/real/airplane/a.jpg 1",
        "real/../airplane/a.jpg 1",
        "real/airplane/a.jpg",
        "real/airplane/a.jpg one",
        "real/airplane/a.jpg ²",
        "real/airplane/a.jpg -1",
        "sketch/airplane/a.jpg 1",
        "airplane/a.jpg 1",
    ],
)
def test_lines_that_are_none(line: str, tmp_path: Path) -> None:
    samples.write_domainnet(tmp_path)
    path = tmp_path / "domainnet" / "real_test.txt"
    path.write_text(f"{line}\n" + path.read_text())
    refused("suite:domainnet", tmp_path, 65, "real_test.txt" if ".." not in line[4:8] else "..")


def test_image_that_climbs_out(tmp_path: Path) -> None:
    samples.write_domainnet(tmp_path)
    samples.picture(tmp_path / "outside.jpg", 1)
    edit(tmp_path, "real_test.txt", "real/airplane/real_002_000010.jpg", "real/airplane/../../../outside.jpg")
    refused("suite:domainnet", tmp_path, 65, "real_test.txt")


def test_folder_that_is_a_link(tmp_path: Path) -> None:
    samples.write_domainnet(tmp_path)
    home = tmp_path / "domainnet" / "real"
    (home / "airplane").rename(tmp_path / "outside")
    (home / "airplane").symlink_to(tmp_path / "outside")
    refused("suite:domainnet", tmp_path, 65, "real/airplane/", "link")


def test_list_that_is_no_text(tmp_path: Path) -> None:
    samples.write_domainnet(tmp_path)
    (tmp_path / "domainnet" / "real_train.txt").write_bytes(b"\xff\xfe\x00")
    refused("suite:domainnet", tmp_path, 65, "real_train.txt")


def test_image_that_stands_twice(tmp_path: Path) -> None:
    samples.write_domainnet(tmp_path)
    path = tmp_path / "domainnet" / "real_train.txt"
    path.write_text(path.read_text() + path.read_text().splitlines()[0] + "\n")
    refused("suite:domainnet", tmp_path, 65, "stands twice", "real/zigzag/")


def test_the_digest_is_remembered_until_a_file_changes(tmp_path: Path, memo: Any, tools: Any) -> None:
    written = samples.write_domainnet(tmp_path)
    tools.age(tmp_path)

    def digest() -> str:
        found = open_suite("domainnet/real", uri="suite:domainnet/real", memo=memo, data_root=tmp_path)
        return found.splits["test"].digest

    before = digest()
    assert digest() == before
    samples.picture(tmp_path / "domainnet" / min(written["real/test"]), 7777)
    assert digest() != before


def test_command_line_makes_noise_on_a_domain(tmp_path: Path, ok: Any) -> None:
    samples.write_domainnet(tmp_path)
    argv = ("inject-noise", "suite:domainnet/real", "--type", "symmetric", "--ratio", "0.5", "--json")
    ran = ok(*argv, "--data-root", tmp_path)
    assert (ran.json["n"], ran.json["classes"]) == (12, 345)
    assert "4 of 345 classes" in ran.err


def test_command_line_names_the_domains_that_disagree(tmp_path: Path, nmtool: Any) -> None:
    samples.write_domainnet(tmp_path)
    edit(tmp_path, "sketch_train.txt", "000000.jpg 344", "000000.jpg 343")
    argv = ("inject-noise", "suite:domainnet", "--type", "symmetric", "--ratio", "0.5", "--split", "real/train")
    ran = nmtool(*argv, "--data-root", tmp_path)
    assert ran.code == 65
    assert "sketch_train.txt" in ran.err
    assert "real_train.txt" in ran.err
