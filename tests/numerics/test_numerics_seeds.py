"""Named streams: the same everywhere, independent of each other."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nmtool.errors import UsageError
from nmtool.numerics.seeds import generator, torch_seed

NAMES = st.lists(st.one_of(st.text(max_size=5), st.integers(-(2**70), 2**70)), max_size=4)


def test_stream_follows_from_the_documented_digest():
    text = json.dumps(["numpy", 7, "tune", 3], separators=(",", ":")).encode()
    entropy = int(hashlib.sha256(text).hexdigest(), 16)
    expected = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy))).integers(0, 2**62, 5)
    assert generator(7, "tune", 3).integers(0, 2**62, 5).tolist() == expected.tolist()


@settings(derandomize=True, max_examples=60, deadline=None)
@given(NAMES, NAMES, st.integers(0, 2**63 - 1))
def test_streams_are_equal_just_when_names_are(left, right, seed):
    same = [(type(n), n) for n in left] == [(type(n), n) for n in right]
    assert (torch_seed(seed, *left) == torch_seed(seed, *right)) is same
    first, second = (int(generator(seed, *names).integers(0, 2**62)) for names in (left, right))
    assert (first == second) is same


def test_names_do_not_run_together():
    seeds = [torch_seed(0, "a", "b"), torch_seed(0, "ab"), torch_seed(0, "a", "b", ""), torch_seed(0, "1"),
             torch_seed(0, 1), torch_seed(0, True), torch_seed(1), torch_seed(0)]  # fmt: skip
    assert len(set(seeds)) == len(seeds)
    assert torch_seed(0, np.int64(1)) == torch_seed(0, 1)
    assert all(0 <= s < 2**63 for s in seeds)


def test_hash_seed_of_the_process_changes_nothing():
    code = "from nmtool.numerics.seeds import *; print(torch_seed(5, 'é', 2), generator(5, 'x').integers(0, 2**62))"
    runs = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": h}, capture_output=True, check=True
        ).stdout
        for h in ("0", "4242")
    }
    assert runs == {f"{torch_seed(5, 'é', 2)} {generator(5, 'x').integers(0, 2**62)}\n".encode()}


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, "3", True])
def test_seeds_that_are_none_are_refused(seed):
    with pytest.raises(UsageError, match="seed"):
        generator(seed)
    with pytest.raises(UsageError, match="seed"):
        torch_seed(seed)
    torch_seed(2**63 - 1)
