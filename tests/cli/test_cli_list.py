"""``nmtool list``: what there is, readable in a terminal, whole as JSON, and quick."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nmtool.cli.listing import MODELS, NOISE, SOURCES, TOPICS
from nmtool.data.sources import SCHEMES
from nmtool.data.suites.catalogue import PARTS, SUITES
from nmtool.inject_noise.config import TYPES
from nmtool.tune.method import METHODS

HEAVY = "{'torch', 'timm', 'zarr', 'sklearn', 'torchvision', 'matplotlib', 'jinja2', 'scipy', 'pyarrow', 'h5py'}"


def test_topics_are_listed_and_each_prints_something(ok: Callable) -> None:
    out = ok("list").out
    for topic in TOPICS:
        assert f"\n{topic} " in f"\n{out}"
        assert ok("list", topic).out.strip()
        assert ok("list", topic, "--json").json.keys() == {topic}
    assert ok("list", "--json").json["topics"].keys() == TOPICS.keys()


def test_the_table_of_suites_has_every_suite_once_in_a_terminal_s_width(ok: Callable) -> None:
    ran = ok("list", "suites")
    lines = ran.out.splitlines()
    rows = [line.split() for line in lines if line.startswith("  ")]
    names = [row[0] for row in rows][1:]
    parts = [part.name for parts in PARTS.values() for part in parts]
    assert sorted(names) == sorted([*(suite.name for suite in SUITES if suite.splits), *parts])
    assert max(map(len, lines)) <= 120
    assert ran.err == ""
    for group in ("in-domain", "pre-training", "noisy labels", "GLUE", "GLUE-X"):
        assert lines.count(group) == 1
    found = {row[0]: row for row in rows}
    assert found["cifar100"][1:5] == ["100", "50,000", "10,000", "accuracy"]
    assert found["clothing1m"][1:5] == ["14", "1,000,000", "10,526", "accuracy"]
    assert found["glue/cola"][1:5] == ["2", "8,551", "1,043", "matthews"]
    assert found["glue/stsb"][1:5] == ["-", "5,749", "1,500", "pearson"]
    assert found["cc12m"][1:5] == ["-", "varies", "-", "-"]
    assert found["glue-x/mnli"][3] == "589,824"  # 9,832 + 9,840 + 570,152


@pytest.mark.parametrize("topic", [("models",), ("recipes",), *(("suites", suite.name) for suite in SUITES)])
def test_no_page_is_wider_than_a_terminal(
    topic: tuple[str, ...], ok: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert max(map(len, ok("list", *topic).out.splitlines())) <= 80


def test_variants_say_which_classes_they_have(ok: Callable) -> None:
    assert "200 classes" in ok("list", "suites", "imagenet-r").out
    assert ok("list", "suites", "objectnet", "--json").json["subset"] == "125 classes in 113 groups"


def test_rows_are_cut_to_the_terminal(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    env = {**os.environ, "COLUMNS": "70", "TERM": "xterm"}
    argv = [sys.executable, "-m", "nmtool", "list", "suites"]
    process = subprocess.Popen(argv, stdout=follower, stderr=follower, cwd=tmp_path, env=env)
    os.close(follower)
    said = b""
    while True:
        try:
            block = os.read(leader, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not block:
            break
        said += block
    os.close(leader)
    assert process.wait() == 0
    rows = [line for line in said.decode().splitlines() if line.startswith("  ")]
    assert len(rows) > 10
    assert max(map(len, rows)) <= 70
    assert "\x1b" not in said.decode()


@pytest.mark.parametrize("name", [*(suite.name for suite in SUITES), *(p.name for ps in PARTS.values() for p in ps)])
def test_one_suite_is_told_whole(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    from nmtool.cli.suitelist import one

    body, lines = one(name)
    text = "\n".join(lines)
    suite = {s.name: s for s in [*SUITES, *(p for ps in PARTS.values() for p in ps)]}[name]
    assert text.startswith(f"suite:{name}  {suite.title}")
    for word in (suite.source, suite.note, suite.protocol):
        assert " ".join(word.split()) in " ".join(text.split())
    for split, size in suite.splits.items():
        assert f"{split} {size:,}" in " ".join(text.split()) if size is not None else f"{split} (varies)" in text
    for line in suite.tree.strip("\n").splitlines():
        assert f"    {line}" in text
    assert json.loads(json.dumps(body))["tree"] == suite.tree.strip("\n")


def test_the_example_command_of_a_suite_is_understood(ok: Callable, nmtool: Callable) -> None:
    """It fails for want of data, not of sense: the suite, the type and the flags are known."""
    text = ok("list", "suites", "glue/rte", "--json").json
    assert text["uri"] == "suite:glue/rte"
    lines = " ".join(ok("list", "suites", "suite:glue-x/rte/hans").out.split())
    assert "hans/test 60,000" in lines
    command = lines.partition(" try nmtool ")[2].partition(" layout")[0].strip().split()
    assert command[:2] == ["inject-noise", "suite:glue-x/rte/hans"]
    ran = nmtool(*command)
    assert ran.code == 66, ran.err
    assert "'DATA'" in ran.err
    assert "--split snli/test" in " ".join(ok("list", "suites", "glue-x/mnli/snli").out.split())


def test_methods_noise_and_sources_are_the_stages_own(ok: Callable) -> None:
    assert list(ok("list", "methods", "--json").json["methods"]) == list(METHODS)
    assert list(ok("list", "noise", "--json").json["noise"]) == list(TYPES)
    assert set(TYPES) <= set(NOISE)
    assert set(SCHEMES) == set(SOURCES)
    for form, _ in SOURCES.values():
        assert form.partition(":")[0] in SCHEMES
    assert list(ok("list", "models", "--json").json["models"]) == list(MODELS)


def test_timm_s_names_by_pattern(ok: Callable, nmtool: Callable) -> None:
    body = ok("list", "models", "resnet10t", "--json").json["models"]
    assert body == {"resnet10t": ["c3_in1k"]}
    lines = ok("list", "models", "timm:resnet10*").out.splitlines()
    assert ["timm:resnet10t", "c3_in1k"] in [line.split() for line in lines]
    assert all(line.startswith(("timm:resnet10", "    ")) for line in lines)  # many tags go on in the second column
    ran = nmtool("list", "models", "resnet10tt")
    assert ran.code == 2
    assert "did you mean resnet10t" in ran.err


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (("suits",), "did you mean suites"),
        (("nonsense",), "suites, models, methods, recipes, noise, sources"),
        (("methods", "lp"), "after suites or models only"),
        (("suites", "cifar10O"), "did you mean suite:cifar10"),
        (("suites", "glue/mnlii"), "did you mean glue/mnli"),
        (("suites", "cifar10/x"), "no member"),
        (("suites", "a", "b"), "b"),
    ],
    ids=" ".join,
)
def test_what_is_not_there(nmtool: Callable, argv: tuple[str, ...], words: str) -> None:
    ran = nmtool("list", *argv)
    assert (ran.code, ran.out) == (2, ""), ran.err
    assert words in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    "argv", [[], ["suites"], ["suites", "glue/cola"], *([topic] for topic in TOPICS)], ids=" ".join
)
def test_nothing_heavy_is_loaded(argv: list[str]) -> None:
    code = (
        "import sys; from nmtool.cli import run; code = run(sys.argv[1:]);"
        f"sys.stderr.write(','.join(sorted({HEAVY} & {{m.split('.')[0] for m in sys.modules}}))); sys.exit(code)"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code, "list", *argv], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - start < 5
