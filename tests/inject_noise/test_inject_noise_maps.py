"""Who is mistaken for whom: the literature's maps by class name, files, and the restriction to related classes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nmtool.artifact.open import open_artifact
from nmtool.artifact.typed import read_labels
from nmtool.errors import DataError, UsageError
from nmtool.inject_noise import facts
from nmtool.inject_noise.mapping import groups_of, mapping_of, read_matrix, read_related
from nmtool.records import NoisyLabels

Unpack = Callable[[str], Path]
CIFAR10 = facts.CIFAR10


def mapping(classes, **given):
    table, _ = mapping_of(tuple(classes), **{"map_": None, "groups": None, "related": None, **given})
    return {classes[a]: classes[b] for a, b in enumerate(table) if a != b}


def arrays(tmp_path: Path, y: np.ndarray, classes: list[str]) -> str:
    np.savez(tmp_path / "x.npz", X_train=np.zeros((len(y), 1), np.float32), y_train=y, classes=np.array(classes))
    return "arrays:x.npz"


def labels_of(path: Path) -> NoisyLabels:
    return read_labels(open_artifact(path))


def test_the_super_classes_are_those_of_the_data_set(real_data: Unpack) -> None:
    """Against coarse_of_fine, as CIFAR-100's own files have it."""
    data = np.load(real_data("cifar100") / "cifar100.npz")
    coarse: dict[int, set[str]] = {}
    for name, group in zip(data["classes"].tolist(), data["coarse_of_fine"].tolist(), strict=True):
        coarse.setdefault(group, set()).add(name)
    assert {frozenset(names) for names in coarse.values()} == {frozenset(names) for names in facts.CIFAR100.values()}
    # and in the published order of the super-classes
    assert [coarse[k] for k in range(20)] == [set(names) for names in facts.CIFAR100.values()]


def test_cifar10_is_known_by_name() -> None:
    pairs = {"truck": "automobile", "bird": "airplane", "deer": "horse", "cat": "dog", "dog": "cat"}
    assert mapping(CIFAR10, map_="cifar10") == pairs
    assert mapping(CIFAR10) == pairs  # taken where nothing is said
    plane = [{"airplane": "Plane", "automobile": "car"}.get(name, name.title()) for name in reversed(CIFAR10)]
    assert mapping(plane) == {"Truck": "car", "Bird": "Plane", "Deer": "Horse", "Cat": "Dog", "Dog": "Cat"}
    with pytest.raises(DataError, match="both read 'airplane'"):
        mapping([*CIFAR10[:9], "plane"], map_="cifar10")
    with pytest.raises(DataError, match="ten classes by name"):
        mapping(["cat", "dog"], map_="cifar10")


def test_groups_flip_to_the_next_label() -> None:
    names = sorted(name.replace("_", " ").title() for members in facts.CIFAR100.values() for name in members)
    pairs = mapping(names)
    assert len(pairs) == 100
    assert pairs["Beaver"] == "Dolphin"
    assert pairs["Whale"] == "Beaver"
    blocks = mapping(names, groups="consecutive")
    assert [names.index(b) - a for a, b in enumerate(blocks.values())] == [1, 1, 1, 1, -4] * 20
    assert mapping(["a", "b", "c", "d", "e"], groups="consecutive:3") == {
        "a": "b",
        "b": "c",
        "c": "a",
        "d": "e",
        "e": "d",
    }


def test_no_usual_map_is_said() -> None:
    with pytest.raises(UsageError, match="--map or --groups"):
        mapping(["a", "b"])
    with pytest.raises(UsageError, match="consecutive:K"):
        mapping(["a", "b"], groups="consecutive:one")
    with pytest.raises(DataError, match="itself"):
        mapping(["a", "b"], groups="consecutive:2", related=np.array([0]))
    with pytest.raises(DataError, match="classes of CIFAR-100"):
        mapping(["apple", "stone"], groups="cifar100")


def test_imagenets_table_is_of_imagenet(tmp_path: Path) -> None:
    """Every wnid is one of the 1,000, once, with the lemma that stands beside it."""
    import timm

    info = Path(timm.__file__).parent / "data" / "_info"
    wnids = (info / "imagenet_synsets.txt").read_text().split()
    lemmas = dict(line.split("\t") for line in (info / "imagenet_synset_to_lemma.txt").read_text().splitlines())
    fine = {name for members in facts.CIFAR100.values() for name in members}
    listed = [wnid for table in facts.IMAGENET_OF_CIFAR100.values() for wnid in table]
    assert len(wnids) == 1000
    assert len(set(listed)) == len(listed)
    for name, table in facts.IMAGENET_OF_CIFAR100.items():
        assert name in fine
        for wnid, lemma in table.items():
            assert wnid in wnids
            assert lemmas[wnid].split(", ")[0] == lemma
    groups = groups_of("imagenet-cifar100", tuple(wnids))
    assert {wnid for wnid, group in zip(wnids, groups, strict=True) if group >= 0} == set(listed)
    super_of = {wnid: group for group, members in facts.CIFAR100.items() for name in members
                for wnid in facts.IMAGENET_OF_CIFAR100.get(name, ())}  # fmt: skip
    pairs = mapping(wnids, groups="imagenet-cifar100")
    assert all(super_of[a] == super_of[b] for a, b in pairs.items())
    assert len(pairs) > 150
    with pytest.raises(DataError, match="wnid"):
        mapping(["tench", "goldfish"], groups="imagenet-cifar100")


def test_global_rates_of_related_classes(ok: Callable, nmtool: Callable, tmp_path: Path) -> None:
    """The slides' study: related classes alone flip, the ratio is of all labels, and what is too much is refused."""
    wnids = ["n01440764", "n01443537", "n01484850", "n01491361", "n02342885", "n02356798", "n15075141", "n04465501"]
    data = arrays(tmp_path, np.repeat(np.arange(8), 100), wnids)
    argv = ("inject-noise", data, "--type", "asymmetric", "--groups", "imagenet-cifar100")
    body = ok(*argv, "--ratio", "0.0125,0.1", "--ratio-of", "all", "--nested", "--json", "-o", "out").json["runs"]
    assert [run["flipped"] for run in body] == [10, 80]
    labels = labels_of(tmp_path / "out/ratio-0.1")
    assert set(labels.clean[labels.flipped].tolist()) == {1, 2, 3, 4, 5}  # tench, tissue and a lone tractor stay
    groups = {1: 0, 2: 0, 3: 0, 4: 1, 5: 1}
    assert all(
        groups[a] == groups[b] for a, b in zip(labels.clean[labels.flipped], labels.noisy[labels.flipped], strict=True)
    )
    ran = nmtool(*argv, "--ratio", "0.7", "--ratio-of", "all")
    assert (ran.code, "0.625 at most" in ran.err) == (65, True), ran.err
    assert ok(*argv, "--ratio", "0.5", "--json").json["flipped"] == 250  # of the mapped rows


@pytest.mark.parametrize(("kind", "flips"), [("symmetric", 30), ("pairflip", 30), ("asymmetric", 30)])
def test_related_classes_alone_flip(ok: Callable, tmp_path: Path, kind: str, flips: int) -> None:
    data = arrays(tmp_path, np.repeat(np.arange(6), 50), list("abcdef"))
    (tmp_path / "some.txt").write_text("b\ne\n\nc\n")
    more = ("--groups", "consecutive:6") if kind == "asymmetric" else ()
    argv = ("inject-noise", data, "--type", kind, "--ratio", "0.2", "--related", "some.txt", *more)
    body = ok(*argv, "--json", "-o", "out").json
    assert (body["flipped"], body["eligible"]) == (flips, 150)
    labels = labels_of(tmp_path / "out")
    assert set(labels.clean[labels.flipped].tolist()) == {1, 2, 4}
    assert set(labels.noisy[labels.flipped].tolist()) == {1, 2, 4}
    if kind != "symmetric":
        turn = {1: 2, 2: 4, 4: 1}
        assert all(
            turn[a] == b for a, b in zip(labels.clean[labels.flipped], labels.noisy[labels.flipped], strict=True)
        )
    assert ok(*argv, "--ratio-of", "all", "--json").json["flipped"] == 60


def test_lists_of_classes(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text('["b", 0]')
    assert read_related(str(path), ("a", "b", "c")).tolist() == [0, 1]
    for text, word in (("b\nb\n", "names 1"), ("x\ny", "'x'"), ("[b]", "does not parse"), ("", "names 0")):
        path.write_text(text)
        with pytest.raises(DataError, match=word):
            read_related(str(path), ("a", "b", "c"))


def test_a_map_that_says_two_things_is_refused(nmtool: Callable, tmp_path: Path) -> None:
    data = arrays(tmp_path, np.repeat(np.arange(3), 5), list("abc"))
    (tmp_path / "map.csv").write_text("from,to\na,b\na,c\n")
    ran = nmtool("inject-noise", data, "--type", "asymmetric", "--ratio", "0.2", "--map", "map.csv")
    assert (ran.code, "'a' twice" in ran.err) == (65, True), ran.err
    (tmp_path / "groups.json").write_text(json.dumps({"a": "x", "b": "x", "c": None}))
    pairs = mapping(["a", "b", "c"], groups=str(tmp_path / "groups.json"))
    assert pairs == {"a": "b", "b": "a"}  # null: in no group


def test_counts_are_divided_by_their_rows(tmp_path: Path) -> None:
    counts = np.array([[6, 2, 0], [1, 8, 1], [0, 0, 5]])
    np.save(tmp_path / "c.npy", counts)
    matrix, were_counts = read_matrix(str(tmp_path / "c.npy"), ("a", "b", "c"))
    assert were_counts
    np.testing.assert_allclose(matrix, [[0.75, 0.25, 0], [0.1, 0.8, 0.1], [0, 0, 1]])
    np.save(tmp_path / "i.npy", np.eye(3))
    assert read_matrix(str(tmp_path / "i.npy"), ("a", "b", "c"))[1] is False
    np.save(tmp_path / "z.npy", np.diag([3, 0, 2]))
    with pytest.raises(DataError, match="'b'"):
        read_matrix(str(tmp_path / "z.npy"), ("a", "b", "c"))
    for name, body in (("p.npy", b"\x93NUMPY\x01\x00"), ("e.npy", b""), ("t.csv", b"1,x\n")):
        (tmp_path / name).write_bytes(body)
        with pytest.raises(DataError, match="does not parse"):
            read_matrix(str(tmp_path / name), ("a", "b", "c"))


def test_cifar10_is_recognised_on_real_data(ok: Callable, nmtool: Callable, real_data: Unpack, tmp_path: Path) -> None:
    data = f"arrays:{real_data('cifar10')}/cifar10.npz"
    ran = ok("inject-noise", data, "--type", "asymmetric", "--ratio", "0.4", "-o", "out", "--json")
    assert "--map cifar10" in ran.err
    assert ran.json["how"] == "map cifar10"
    labels = labels_of(tmp_path / "out")
    named = {(labels.classes[a], labels.classes[b]) for a, b in zip(labels.clean, labels.noisy, strict=True) if a != b}
    assert named == set(facts.CIFAR10_MAP.items())
    mapped = np.isin(labels.clean, [2, 3, 4, 5, 9])
    assert labels.flipped.sum() == round(0.4 * mapped.sum())
    assert not labels.flipped[~mapped].any()
    ran = nmtool("inject-noise", "digits", "--type", "asymmetric", "--ratio", "0.4")
    assert (ran.code, "--map or --groups" in ran.err) == (2, True)


def test_a_complex_matrix_and_a_folder_are_refused(nmtool: Callable, tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", np.eye(10) * (1 + 1j))
    ran = nmtool("inject-noise", "digits", "--type", "matrix", "--matrix", "t.npy")
    assert (ran.code, "complex" in ran.err) == (65, True), ran.err
    for flags in (
        ("matrix", "--matrix"),
        ("asymmetric", "--ratio", "0.1", "--map"),
        ("symmetric", "--ratio", "0.1", "--related"),
    ):
        ran = nmtool("inject-noise", "digits", "--type", *flags, ".")
        assert (ran.code, "is a folder" in ran.err) == (66, True), ran.err


def test_numbers_in_files_are_all_names_or_all_labels(tmp_path: Path) -> None:
    """Classes called 1, 2 and 10 stand in the order 1, 10, 2."""
    classes, path = ("1", "10", "2"), tmp_path / "m.json"
    path.write_text('{"1": "2", "2": "10"}')  # names
    assert mapping_of(classes, map_=str(path), groups=None, related=None)[0].tolist() == [2, 1, 1]
    path.write_text('{"0": "1", "1": "2"}')  # there is no class 0: label numbers
    assert mapping_of(classes, map_=str(path), groups=None, related=None)[0].tolist() == [1, 2, 2]
    path.write_text('{"0": "a", "1": "a", "2": null}')
    assert mapping_of(classes, map_=None, groups=str(path), related=None)[0].tolist() == [1, 0, 2]
    path.write_text('{"1": "a", "2": "a", "10": null}')
    assert mapping_of(classes, map_=None, groups=str(path), related=None)[0].tolist() == [2, 1, 0]
    path.write_text('["1", "2"]')
    assert read_related(str(path), classes).tolist() == [0, 2]
    for text in ('{"0": "10"}', '{"0": "3"}'):
        path.write_text(text)
        with pytest.raises(DataError, match="the label"):
            mapping_of(classes, map_=str(path), groups=None, related=None)


@pytest.mark.parametrize(
    "text", ['{"a": "x", "b": "x", "a": "y"}', '{"a": "x", "b": "x", "0": "y", "1": "x"}', "[]", "3"]
)
def test_groups_that_say_two_things_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "g.json"
    path.write_text(text)
    for how in ({"map_": None, "groups": str(path)}, {"map_": str(path), "groups": None}):
        with pytest.raises(DataError):
            mapping_of(("a", "b"), **how, related=None)
