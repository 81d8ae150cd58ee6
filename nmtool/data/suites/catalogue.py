"""Every suite, in the order that ``nmtool list suites`` prints them: one literal table."""

from __future__ import annotations

from nmtool.data.suites.cifar import CIFAR10, CIFAR100
from nmtool.data.suites.facts import Suite

SUITES: tuple[Suite, ...] = (CIFAR10, CIFAR100)
