"""The stage: what it accepts, what it refuses, when it is a hit, and that its content depends on its inputs alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nmtool.artifact.open import open_artifact
from nmtool.artifact.stage import STAGING
from nmtool.errors import CorruptError, DataError, InputMissingError, UsageError
from nmtool.report.config import Config
from nmtool.settings import resolve


@pytest.fixture
def small(bench: Any) -> Any:
    """Four artifacts that are quick to report on."""
    labels = bench.labels(np.repeat(np.arange(3), 10), 0.2, ["a", "b", "c"])
    features = bench.features(None, name="w")
    spectrum = bench.spectrum(features, {"test": np.random.default_rng(0).normal(size=(40, 12))})
    heads = bench.heads(features, [bench.row(run=s, seed=s, accuracy=0.5 + s / 10) for s in (0, 1)], labels=[labels])
    return [labels, features, spectrum, heads]


def test_content_depends_on_inputs_alone(
    small: Any, report: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    formats = ("latex", "json", "csv", "markdown")
    first, _ = report(*(m.path for m in small), format=formats, store=tmp_path / "one")
    moved = tmp_path / "elsewhere"
    for number, made in enumerate(small):
        shutil.copytree(made.path, moved / f"renamed-{number}", copy_function=shutil.copy)
    monkeypatch.chdir(moved)
    second, _ = report("renamed-3", "renamed-1", "renamed-0", "renamed-2", format=formats[::-1], store=tmp_path / "two")
    third, _ = report(".", "renamed-2", format=formats, store=tmp_path / "three")
    assert first.key == second.key == third.key
    assert first.content == second.content == third.content
    assert first.summary["files"] == ["report.html", "report.md", "report.csv", "report.json", "report.tex"]


def test_content_is_that_of_another_process(small: Any, report: Callable[..., Any], tmp_path: Path) -> None:
    made, _ = report(*(m.path for m in small))
    code = (
        "import sys, pathlib\n"
        "from nmtool.artifact.stage import Session\n"
        "from nmtool.report.config import Config\n"
        "from nmtool.report.run import run\n"
        "print(run(Config(artifacts=tuple(sys.argv[2:])), Session(store=pathlib.Path(sys.argv[1]))).content)\n"
    )
    env = {**os.environ, "PYTHONHASHSEED": "77", "TZ": "Asia/Tokyo"}
    command = [sys.executable, "-c", code, str(tmp_path / "other"), *(str(m.path) for m in small)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, env=env, cwd=tmp_path)
    assert out.stdout.strip() == made.content


def test_a_hit_is_light(small: Any, report: Callable[..., Any], tmp_path: Path) -> None:
    made, _ = report(*(m.path for m in small), store=tmp_path / "hit")
    code = (
        "import sys, pathlib\n"
        "from nmtool.artifact.stage import Session\n"
        "from nmtool.report.config import Config\n"
        "from nmtool.report.run import run\n"
        "ref = run(Config(artifacts=tuple(sys.argv[2:])), Session(store=pathlib.Path(sys.argv[1])))\n"
        "heavy = {'matplotlib', 'jinja2', 'pyarrow', 'torch', 'zarr', 'sklearn', 'timm'} & set(sys.modules)\n"
        "print(ref.cached, sorted(heavy))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "hit"), *(str(m.path) for m in small)]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "True []"
    assert open_artifact(made.path).manifest.content == made.content


def test_the_key_follows_what_changes_the_page(small: Any, report: Callable[..., Any]) -> None:
    paths = [m.path for m in small]
    base, _ = report(*paths)
    assert base.kind == "report"
    again, _ = report(*paths, workers=7, seed=3, device="cuda:1")
    assert again.cached
    assert again.key == base.key
    titled, _ = report(*paths, title="another")
    fewer, _ = report(*paths[:3])
    formats, _ = report(*paths, format=("csv",))
    assert len({base.key, titled.key, fewer.key, formats.key}) == 4


def test_what_is_cited_and_counted(small: Any, report: Callable[..., Any]) -> None:
    made, _ = report(*(m.path for m in small))
    manifest = open_artifact(made.path).manifest
    assert {i.role for i in manifest.inputs} == {"artifact"}
    assert sorted(i.content for i in manifest.inputs) == [i.content for i in manifest.inputs]
    assert {i.content for i in manifest.inputs} == {m.content for m in small}
    assert made.summary == {"rows": 2, "files": ["report.html"]}


def test_a_folder_is_searched_but_not_links_unfinished_work_or_reports(
    small: Any, bench: Any, report: Callable[..., Any], tmp_path: Path
) -> None:
    plain, _ = report(bench.store, store=tmp_path / "apart")
    unfinished = bench.store / "heads" / STAGING / "x~1~2"
    shutil.copytree(small[0].path, unfinished)
    (unfinished / "manifest.json").chmod(0o644)
    (unfinished / "manifest.json").write_text("{}")
    elsewhere = bench.make("labels", {"x": b"y"}, config={"other": 1})
    target = tmp_path / "outside"
    shutil.move(elsewhere.path, target)
    (bench.store / "labels" / "link").symlink_to(target)
    within, _ = report(bench.store, store=bench.store)
    assert within.key == plain.key
    again, _ = report(bench.store, store=bench.store)
    assert again.cached, "the report that lies in the store now does not report on itself"


def test_nothing_there_is_refused_with_what_to_do(report: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(InputMissingError) as caught:
        report(tmp_path / "nowhere")
    assert caught.value.exit_code == 66
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputMissingError, match=r"run spectrum or tune first") as caught:
        report(tmp_path / "empty")
    assert caught.value.exit_code == 66
    assert not (tmp_path / "reports").exists(), "nothing half-written"


def test_a_damaged_artifact_is_named(small: Any, report: Callable[..., Any], tmp_path: Path) -> None:
    broken = small[3].path / "data" / "results.parquet"
    broken.chmod(0o644)
    data = bytearray(broken.read_bytes())
    data[len(data) // 2] ^= 255
    broken.write_bytes(bytes(data))
    with pytest.raises(CorruptError, match=r"results\.parquet") as caught:
        report(*(m.path for m in small))
    assert caught.value.exit_code == 76
    broken.write_bytes(b"short")
    with pytest.raises(CorruptError, match=small[3].path.name):
        report(small[3].path.parent)
    assert not list((tmp_path / "reports").glob("report/*/manifest.json"))


def test_an_array_that_is_a_pickle_is_not_loaded(bench: Any, report: Callable[..., Any]) -> None:
    import io

    buffer = io.BytesIO()
    np.save(buffer, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    line = b'{"results":[{"sigma":"sigma.npy","split":"test"}]}'
    made = bench.make("spectrum", {"spectrum.json": line, "sigma.npy": buffer.getvalue()}, config={})
    with pytest.raises(CorruptError, match=r"sigma\.npy"):
        report(made.path)


def test_a_report_is_no_input(small: Any, report: Callable[..., Any]) -> None:
    made, _ = report(small[0].path)
    with pytest.raises(DataError, match="is a report"):
        report(made.path, small[0].path)


def test_settings_from_the_command_line() -> None:
    config = resolve(Config, {"artifacts": ["a,b", "c"], "format": "csv,html"}, {}, "")
    assert config.artifacts == ("a,b", "c"), "a path may hold a comma"
    assert config.format == ("html", "csv")
    with pytest.raises(UsageError, match="did you mean latex"):
        resolve(Config, {"artifacts": ["a"], "format": "latexx"}, {}, "")
    with pytest.raises(UsageError):
        Config(artifacts=("a",), format=("pdf",))
    with pytest.raises(UsageError):
        Config(artifacts=())
