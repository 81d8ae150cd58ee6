"""Every suite, in the order that ``nmtool list suites`` prints them: one literal table."""

from __future__ import annotations

from nmtool.data.suites.aircraft import AIRCRAFT
from nmtool.data.suites.caltech import CALTECH101
from nmtool.data.suites.cars import CARS
from nmtool.data.suites.cifar import CIFAR10, CIFAR100
from nmtool.data.suites.clothing import CLOTHING1M
from nmtool.data.suites.domainnet import DOMAINNET, DOMAINNET_PARTS
from nmtool.data.suites.dtd import DTD
from nmtool.data.suites.facts import Suite
from nmtool.data.suites.flowers import FLOWERS102
from nmtool.data.suites.food import FOOD101
from nmtool.data.suites.glue import GLUE, GLUE_TASKS
from nmtool.data.suites.gluex import GLUEX, GLUEX_TASKS
from nmtool.data.suites.imagenet import IMAGENET
from nmtool.data.suites.imagenet_variants import IMAGENET_A, IMAGENET_R, IMAGENET_SKETCH, IMAGENET_V2
from nmtool.data.suites.mapped import IMAGENET_VID, OBJECTNET
from nmtool.data.suites.pairs import CC12M, YFCC15M
from nmtool.data.suites.pcam import PCAM
from nmtool.data.suites.pets import PETS
from nmtool.data.suites.rendered import RENDERED_SST2
from nmtool.data.suites.satellite import EUROSAT, RESISC45
from nmtool.data.suites.svhn import SVHN
from nmtool.data.suites.webvision import WEBVISION, WEBVISION_MINI

SUITES: tuple[Suite, ...] = (
    CIFAR10,
    CIFAR100,
    FLOWERS102,
    FOOD101,
    PETS,
    CARS,
    AIRCRAFT,
    SVHN,
    DTD,
    CALTECH101,
    EUROSAT,
    PCAM,
    RESISC45,
    RENDERED_SST2,
    # out-of-domain
    DOMAINNET,
    IMAGENET_V2,
    IMAGENET_R,
    IMAGENET_SKETCH,
    IMAGENET_A,
    IMAGENET_VID,
    OBJECTNET,
    # pre-training
    IMAGENET,
    YFCC15M,
    CC12M,
    # noisy labels
    CLOTHING1M,
    WEBVISION,
    # GLUE and GLUE-X
    GLUE,
    GLUEX,
)

PARTS: dict[str, tuple[Suite, ...]] = {
    "domainnet": DOMAINNET_PARTS,
    "webvision": (WEBVISION_MINI,),
    "glue": GLUE_TASKS,
    "glue-x": GLUEX_TASKS,
}
"""Members, by suite, that have facts of their own: ``suite:glue/cola``. For the list of suites; opened by the whole."""
