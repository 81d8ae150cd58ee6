"""ImageNet-1K's classes, and which of them each of its variants has.

The order of the 1,000 classes is that of the sorted WordNet ids: label 0 is n01440764, as torchvision, timm and every
published model have it. The lists are those that timm ships; timm is found, not imported. Refuses lists that are not
what they should be.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

from nmtool.errors import DataError, UnavailableError

CLASSES = 1000

# ObjectNet's 113 categories that ImageNet has, as its mappings/objectnet_to_imagenet_1k.json gives them (Barbu 2019):
# class numbers; the groups are those categories that ImageNet divides further.
_OBJECTNET_GROUPS = (
    *((409, 530), (418, 563, 749), (423, 559, 765), (444, 671), (457, 906), (479, 694), (518, 560)),
    *((601, 655, 689), (732, 759)),
)
_OBJECTNET_SINGLE = (
    *(412, 414, 419, 434, 440, 446, 455, 462, 463, 470, 473, 487, 499, 504, 507, 508, 531, 533, 539, 543, 545, 549),
    *(550, 567, 578, 587, 588, 589, 606, 608, 610, 618, 619, 620, 623, 626, 629, 630, 632, 644, 647, 651, 658, 659),
    *(664, 673, 677, 679, 695, 696, 700, 703, 720, 721, 725, 728, 729, 731, 737, 740, 742, 752, 761, 769, 770, 772),
    *(773, 774, 778, 783, 790, 792, 797, 804, 806, 809, 811, 813, 828, 834, 837, 841, 842, 846, 849, 850, 851, 859),
    *(868, 879, 882, 883, 893, 898, 902, 907, 909, 923, 930, 950, 951, 954, 968, 999),
)

# The 30 classes of ImageNet-VID in their numbering, as misc/wnid_map.json of ImageNet-Vid-Robust gives them (Shankar
# 2021): a number, or the first and the last of a run of numbers. 288 classes of ImageNet in all.
_VID: tuple[tuple[int | tuple[int, int], ...], ...] = (
    (404,),  # airplane
    ((351, 353),),  # antelope
    ((294, 297),),  # bear
    (444, 671),  # bicycle
    ((7, 24), (80, 100), (127, 146)),  # bird
    (654, 779, 874),  # bus
    (407, 436, 468, 511, 609, 627, 656, 661, 751, 817),  # car
    (345,),  # cattle
    ((151, 268),),  # dog
    ((281, 285),),  # domestic cat
    ((385, 386),),  # elephant
    ((277, 280),),  # fox
    (388,),  # giant panda
    (333,),  # hamster
    (339,),  # horse
    (291,),  # lion
    ((38, 48),),  # lizard
    ((370, 382),),  # monkey
    (665,),  # motorcycle
    (330, 332),  # rabbit
    (387,),  # red panda
    (348,),  # sheep
    ((52, 68),),  # snake
    (335,),  # squirrel
    (292,),  # tiger
    (466,),  # train
    ((33, 37),),  # turtle
    (403, 472, 484, 510, 554, 576, 625, 628, 724, 780, 814, 833, 871, 913, 914),  # watercraft
    ((147, 148),),  # whale
    (340,),  # zebra
)


def _run(part: int | tuple[int, int]) -> range:
    first, last = part if isinstance(part, tuple) else (part, part)
    return range(first, last + 1)


VID_GROUPS = tuple(tuple(number for part in parts for number in _run(part)) for parts in _VID)
"""ImageNet class numbers of each of ImageNet-VID's 30 classes, in VID's numbering."""

OBJECTNET_GROUPS = tuple(sorted((*_OBJECTNET_GROUPS, *((number,) for number in _OBJECTNET_SINGLE))))
"""ImageNet class numbers of each of the 113 categories of ObjectNet that ImageNet has."""

# The parts of ImageNet-R and ImageNet-A are in timm's lists.
_LISTED = {"imagenetr": "imagenet_r_synsets.txt", "imageneta": "imagenet_a_synsets.txt"}
_GROUPED = {"objectnet": OBJECTNET_GROUPS, "imagenetvid": VID_GROUPS, "imagenetvidrobust": VID_GROUPS}


def subset_of(suite_name: str) -> tuple[int, ...] | None:
    """The ImageNet-1K class numbers that a variant has, ascending; None where it has all or is no variant.

    A head with 1,000 outputs is tested on a variant with the other outputs left out, as the variants' authors do.

    Args:
        suite_name: such as ``imagenet-r``.

    Raises:
        UnavailableError: timm's lists are not there.
    """
    name = _plain(suite_name)
    if name in _LISTED:
        number = numbers()
        return tuple(sorted(number[wnid] for wnid in _lines(_LISTED[name], 200)))
    groups = _GROUPED.get(name)
    return tuple(sorted(number for group in groups for number in group)) if groups else None


def groups_of(suite_name: str) -> tuple[tuple[int, ...], ...] | None:
    """The ImageNet-1K classes that count as one class of a variant; None where each class stands for itself.

    The groups are disjoint. A sample's label is the lowest number of its group; a prediction of any class of the group
    is right, as the authors of ObjectNet and ImageNet-Vid-Robust score them.
    """
    return _GROUPED.get(_plain(suite_name))


def _plain(suite_name: str) -> str:
    """As ``suite:`` reads names: case, ``-`` and ``_`` don't matter."""
    return suite_name.lower().replace("-", "").replace("_", "")


@functools.cache
def wnids() -> tuple[str, ...]:
    """ImageNet-1K's 1,000 WordNet ids in label order.

    Raises:
        UnavailableError: timm's lists are not there.
    """
    found = _lines("imagenet_synsets.txt", CLASSES)
    if list(found) != sorted(found):
        raise DataError("timm's list of ImageNet classes is not in order", "sorted WordNet ids", "install timm again")
    return found


def numbers() -> dict[str, int]:
    """Class numbers of ImageNet-1K by WordNet id; see ``wnids``."""
    return {wnid: number for number, wnid in enumerate(wnids())}


@functools.cache
def names() -> tuple[str, ...]:
    """What ImageNet-1K calls its classes, in label order: ``tench, Tinca tinca`` ….

    Raises:
        UnavailableError: timm's lists are not there.
    """
    lemmas = dict(line.partition("\t")[::2] for line in _read("imagenet_synset_to_lemma.txt"))
    return tuple(lemmas[wnid] for wnid in wnids())


def _lines(file: str, n: int) -> tuple[str, ...]:
    found = _read(file)
    if len(set(found)) != n or len(found) != n:
        raise DataError(f"timm's {file} has {len(found)} lines", f"{n} different WordNet ids", "install timm again")
    return found


def _read(file: str) -> tuple[str, ...]:
    spec = importlib.util.find_spec("timm")  # finds the package, doesn't import it
    path = Path(spec.origin).parent / "data" / "_info" / file if spec and spec.origin else None
    if path is None or not path.exists():
        raise UnavailableError(f"timm's {file} is not there", "timm", "pip install timm")
    return tuple(path.read_text("utf-8").split("\n")[:-1])
