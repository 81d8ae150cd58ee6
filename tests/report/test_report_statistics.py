"""Means, spreads and text of numbers."""

from __future__ import annotations

import math
import statistics as reference

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nmtool.report.statistics import Stat, mean, summarise
from nmtool.report.table import percent, share, shown, stat_cells, stat_text


@given(st.lists(st.floats(0, 1), min_size=2, max_size=30))
def test_mean_and_sample_deviation_are_those_of_the_standard_library(values: list[float]) -> None:
    stat = summarise(values)
    assert stat is not None
    assert stat.mean == pytest.approx(reference.fmean(values), abs=1e-15)
    assert stat.std == pytest.approx(reference.stdev(values), abs=1e-9)
    assert stat.n == len(values)


def test_by_hand() -> None:
    stat = summarise([0.8, 0.9, None, 1.0, math.nan])
    assert stat == Stat(mean=pytest.approx(0.9), std=pytest.approx(0.1), n=3)
    assert stat is not None
    assert stat.std == pytest.approx(np.std([0.8, 0.9, 1.0], ddof=1))
    assert stat_text(stat, as_percent=True) == "90.00 ± 10.00"


def test_one_run_has_no_spread_and_none_has_nothing() -> None:
    assert summarise([0.5]) == Stat(mean=0.5, std=None, n=1)
    assert stat_text(summarise([0.5]), as_percent=True) == "50.00"
    assert summarise([None, math.inf]) is None
    assert stat_text(None, as_percent=True) == "–"


def test_a_mean_over_fewer_targets_is_no_mean() -> None:
    assert mean([0.25, 0.75]) == 0.5
    assert mean([0.25, None]) is None
    assert mean([]) is None


def test_best_is_the_largest_mean_and_ties_as_printed() -> None:
    stats = [Stat(mean=m, std=None, n=1) for m in (0.5, 0.800001, 0.8, 0.1)]
    assert [c.best for c in stat_cells([*stats, None], as_percent=True)] == [False, True, True, False, False]
    assert not any(c.best for c in stat_cells(stats[:1], as_percent=True)), "one line is no contest"


@pytest.mark.parametrize(
    ("text", "visible"),
    [
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("tab\there\r\n", "tab\\x09here\\x0d\\x0a"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\ud800", "\\ud800"),
        ("日本 ünï", "日本 ünï"),
    ],
)
def test_control_characters_are_shown_not_obeyed(text: str, visible: str) -> None:
    assert shown(text) == visible


@given(st.text(max_size=300))
def test_shown_is_short_and_can_be_written(text: str) -> None:
    out = shown(text)
    assert len(out) <= 120
    assert all(ord(c) >= 32 and ord(c) != 127 for c in out)
    out.encode("utf-8")


def test_shares() -> None:
    assert [share(v) for v in (0.0, 0.1, 0.3, 0.125, None)] == ["0 %", "10 %", "30 %", "12.5 %", "–"]
    assert percent(0.12345) == "12.35" or percent(0.12345) == "12.34"
