"""What scripts may rely on: stdout, stderr, exit codes, keys; through the real command line."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

INJECT = ("inject-noise", "digits", "--type", "symmetric", "--ratio", "0.1")


def test_a_path_is_the_one_line_on_stdout(ok: Callable, tmp_path: Path) -> None:
    first = ok(*INJECT)
    assert first.out.count("\n") == 1
    assert (tmp_path / first.path / "manifest.json").is_file()
    assert first.path.parts[:2] == ("nmruns", "labels")
    again = ok(*INJECT)
    assert again.out == first.out
    assert "there already" in again.err


def test_json_has_the_contract_fields(ok: Callable) -> None:
    body = ok(*INJECT, "--json").json
    common = {"artifact", "kind", "key", "content", "cached", "seconds"}
    stage = {"n", "classes", "type", "ratio_requested", "ratio", "flipped", "seed"}
    assert common | stage <= set(body)
    assert (body["n"], body["classes"], body["flipped"], body["cached"]) == (400, 10, 40, False)
    assert body["ratio"] == 0.1
    assert ok(*INJECT, "--json").json["cached"] is True


def test_every_result_of_tune_has_the_contract_fields(ok: Callable, tmp_path: Path) -> None:
    """Whatever the method: what it has not is null, and not away."""
    wanted = "method loss seed fraction source split role n accuracy macro_f1 mean_per_class best_accuracy sve lsvr"
    X = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
    np.savez(tmp_path / "x.npz", X_train=X, y_train=np.arange(40) % 2, X_test=X, y_test=np.arange(40) % 2)
    features = ok("extract", "none", "arrays:x.npz").path
    every = "lp,mlp,nmtune,knn,elr,dividemix,unicon"
    flags = ("--method", every, "--epochs", "2", "--no-spectra", "--ood", f"{features}:train")
    rows = ok("tune", str(features), *flags, "--json").json["results"]
    assert {row["method"] for row in rows} == set(every.split(","))
    assert [row for row in rows if not set(wanted.split()) <= set(row)] == []


def test_several_ratios_are_one_artifact_each(ok: Callable, tmp_path: Path) -> None:
    runs = ok("inject-noise", "digits", "--type", "symmetric", "--ratio", "0,0.1,0.3", "--json").json["runs"]
    assert [run["flipped"] for run in runs] == [0, 40, 120]
    lines = ok("inject-noise", "digits", "--type", "symmetric", "--ratio", "0,0.1,0.3").out.splitlines()
    assert lines == [run["artifact"] for run in runs]


def test_quiet_says_nothing_and_pipes_have_no_escapes(ok: Callable) -> None:
    assert ok(*INJECT, "--quiet").err == ""
    loud = ok(*INJECT, "--ratio", "0.2", "--verbose")
    assert "\x1b" not in loud.out + loud.err


def test_on_a_terminal_no_color_is_honoured(tmp_path: Path) -> None:
    leader, follower = pty.openpty()
    done = subprocess.run(
        [sys.executable, "-m", "nmtool", "spectrum", "nowhere"],
        stderr=follower,
        stdout=subprocess.PIPE,
        cwd=tmp_path,
        env={**os.environ, "NO_COLOR": "1", "TERM": "xterm"},
    )
    os.close(follower)
    said = os.read(leader, 65536).decode()
    os.close(leader)
    assert done.returncode == 66
    assert "nowhere does not exist" in said
    assert "\x1b" not in said


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (("inject-noise", "digits", "--type", "symmetric", "--ratio", "1.2"), 2, "[0, 1)"),
        (("inject-noise", "digits", "--type", "symmetric", "--ratio", "nan"), 2, "finite"),
        (("inject-noise", "digits", "--type", "symetric", "--ratio", "0.1"), 2, "did you mean symmetric"),
        (("inject-noise", "digits", "--ratio", "0.1"), 2, "--type is missing; expected one of symmetric, "),
        (("inject-noise", "digits", "--type", "symmetric"), 2, "--ratio"),
        (("inject-noise", "digits", "--type", "symmetric", "--ratio", "0.1", "--split", "nope"), 66, "pretrain"),
        (("inject-noise", "digts", "--type", "symmetric", "--ratio", "0.1"), 2, "digits"),
        (("inject-noise", "folder:nowhere", "--type", "symmetric", "--ratio", "0.1"), 66, "nowhere"),
        (("inject-noise", "digits", "--type", "captions", "--ratio", "0.1"), 65, "pairs"),
        (("spectrum", "nowhere"), 66, "nowhere"),
        (("spectrum", "."), 76, "manifest.json"),
        (("nonsense",), 2, "nonsense"),
        (("show",), 2, "ARTIFACT"),
        (("verify", ".", "--slice", "9/3"), 2, "I/N"),
        (("extract", "timm:resnet10t", "folder:nowhere", "--untrained"), 66, "nowhere"),
        (("extract", "timm:resnet10tt", "digits", "--untrained"), 2, "resnet10t"),
        (("extract", "timm:resnet10t.c3_in1k", "digits"), 69, "--untrained"),
        (("tune", "nowhere", "--method", "lp"), 66, "nowhere"),
        (("tune", "nowhere", "--method", "lpp"), 2, "lp"),
        (("report", "nowhere"), 66, "nowhere"),
        (("inject-noise", "digits", "--type", "symmetric", "--ratio", "0.1", "--config", "none.toml"), 66, "none.toml"),
    ],
    ids=lambda v: " ".join(v)[:60] if isinstance(v, tuple) else None,
)
def test_expected_errors(nmtool: Callable, tmp_path: Path, argv: tuple[str, ...], code: int, words: str) -> None:
    ran = nmtool(*argv)
    assert ran.code == code, ran.err
    assert words in ran.err
    assert ran.out == ""
    assert "Traceback" not in ran.err
    assert len([line for line in ran.err.splitlines() if "error: " in line]) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_list_in_parts_is_the_list(ok: Callable) -> None:
    """``--split train --split test`` took the last alone, in silence."""
    given = ("extract", "timm:resnet10t", "digits", "--untrained", "--dry-run")
    whole = ok(*given, "--split", "pretrain,train", "--mean", "0.4,0.5,0.6").out
    parts = ("--split", "pretrain", "--mean", "0.4,0.5", "--split", "train", "--mean", "0.6")
    assert ok(*given, *parts).out == whole
    assert "in 2 splits" in whole


def test_config_files(nmtool: Callable, ok: Callable, tmp_path: Path) -> None:
    good = tmp_path / "good.toml"
    good.write_text('[inject-noise]\ntype = "symmetric"\nratio = [0.1]\n')
    by_file = ok("inject-noise", "digits", "--config", "good.toml", "--json").json
    assert by_file["key"] == ok(*INJECT, "--json").json["key"]
    flag_wins = ok("inject-noise", "digits", "--config", "good.toml", "--ratio", "0.2", "--json").json
    assert flag_wins["ratio_requested"] == 0.2
    for text, words in (
        ("[inject-noise]\nraito = 0.1\n", "did you mean ratio"),
        ('[inject-noise]\nratio = "lots"\n', "ratio"),
        ("[inject_noise]\nratio = 0.1\n", "inject-noise"),
        ("[inject-noise\n", "TOML"),
    ):
        bad = tmp_path / "bad.toml"
        bad.write_text(text)
        ran = nmtool("inject-noise", "digits", "--config", "bad.toml", "--type", "symmetric")
        assert ran.code == 78, ran.err
        assert words in ran.err


def test_show_config_makes_it_again(ok: Callable, tmp_path: Path) -> None:
    first = ok(*INJECT, "--seed", "3", "--json").json
    (tmp_path / "again.toml").write_text(ok("show", first["artifact"], "--config").out)
    assert ok("inject-noise", "digits", "--config", "again.toml", "--json").json["key"] == first["key"]


def test_why_names_the_leaf(ok: Callable) -> None:
    a, b = ok(*INJECT).path, ok(*INJECT, "--seed", "1").path
    assert ok("why", a, b).out == "config.seed: 0 → 1\n"
    assert ok("why", a, a).out == "the same recipe, and the same content\n"
    body = ok("why", a, b, "--json").json
    assert body["differences"] == [{"path": "config.seed", "a": 0, "b": 1}]


def test_verify_says_76_and_names_the_file(ok: Callable, nmtool: Callable, tmp_path: Path) -> None:
    path = tmp_path / ok(*INJECT).path
    assert ok("verify", path, "--full", "--json").json["hashed"] == 4
    victim = path / "data/labels.parquet"
    victim.chmod(0o644)
    data = bytearray(victim.read_bytes())
    data[100] ^= 1
    victim.write_bytes(data)
    assert nmtool("verify", path).code == 0  # the light check reads no payload, and says so
    ran = nmtool("verify", path, "--full")
    assert ran.code == 76
    assert "labels.parquet" in ran.err
    hit = [nmtool("verify", path, "--slice", f"{i}/3").code for i in (1, 2, 3)]
    assert sorted(hit) == [0, 0, 76]


def test_dry_run_tells_key_and_work_and_writes_nothing(ok: Callable, tmp_path: Path) -> None:
    planned = ok(*INJECT, "--dry-run")
    assert planned.out.startswith("miss sha256:")
    assert "400 samples" in planned.out
    assert list(tmp_path.iterdir()) == []
    key = ok(*INJECT, "--json").json["key"]
    assert ok(*INJECT, "--dry-run").out.startswith(f"hit {key}")
    assert ok(*INJECT, "--dry-run", "--json").json["cached"] is True


def test_the_key_depends_on_nothing_but_the_recipe(ok: Callable, tmp_path: Path) -> None:
    """P9: working directory, locale, hash seed, workers, device, store."""
    (tmp_path / "elsewhere").mkdir()
    keys = {
        ok(*INJECT, "--json").json["key"],
        ok(*INJECT, "--json", cwd=tmp_path / "elsewhere").json["key"],
        ok(*INJECT, "--json", "--workers", "7", "--device", "cpu").json["key"],
        ok(*INJECT, "--json", env={"LC_ALL": "tr_TR.UTF-8", "LANG": "C"}).json["key"],
        ok(*INJECT, "--json", env={"PYTHONHASHSEED": "12345"}).json["key"],
        ok(*INJECT, "--json", "-o", "named").json["key"],
    }
    contents = {
        ok(*INJECT, "--json", env={"PYTHONHASHSEED": "1"}, cwd=tmp_path / "elsewhere").json["content"],
        ok(*INJECT, "--json", "--force", env={"PYTHONHASHSEED": "2"}).json["content"],
    }
    assert len(keys) == 1
    assert len(contents) == 1


def test_every_keyed_setting_changes_the_key(ok: Callable, tmp_path: Path) -> None:
    """P10, for the first stage; each other room tests its own."""
    (tmp_path / "map.json").write_text('{"3": "8"}')
    (tmp_path / "map2.json").write_text('{"3": "5"}')
    variants = [
        INJECT,
        (*INJECT, "--seed", "1"),
        (*INJECT[:4], "--ratio", "0.2"),
        (*INJECT, "--include-self"),
        (*INJECT, "--bernoulli"),
        (*INJECT, "--split", "test"),
        ("inject-noise", "digits", "--type", "pairflip", "--ratio", "0.1"),
        ("inject-noise", "digits", "--type", "asymmetric", "--ratio", "0.1", "--map", "map.json"),
        ("inject-noise", "digits", "--type", "asymmetric", "--ratio", "0.1", "--map", "map2.json"),
    ]
    keys = [ok(*variant, "--dry-run", "--json").json["key"] for variant in variants]
    assert len(set(keys)) == len(keys)


def test_under_cron(tmp_path: Path) -> None:
    """P28: no HOME, no terminal, a C locale, umask 077."""
    done = subprocess.run(
        [
            "env",
            "-i",
            f"PATH={os.environ['PATH']}",
            "LANG=C",
            "sh",
            "-c",
            f'umask 077; exec "{sys.executable}" -m nmtool {" ".join(INJECT)}',
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr
    artifact = tmp_path / done.stdout.strip()
    assert artifact.stat().st_mode & 0o077 == 0
    assert (artifact / "manifest.json").stat().st_mode & 0o077 == 0


def test_a_cached_call_is_light_and_fast(ok: Callable, tmp_path: Path) -> None:
    ok(*INJECT)
    code = (
        "import sys; from nmtool.cli import run; code = run(sys.argv[1:]);"
        "heavy = sorted({'torch', 'timm', 'zarr', 'sklearn'} & {m.split('.')[0] for m in sys.modules});"
        "sys.stderr.write(repr(heavy)); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *INJECT, "--quiet"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=dict(os.environ),
    )
    assert done.returncode == 0
    assert done.stderr == "[]"


def test_what_is_there_is_shown(ok: Callable) -> None:
    path = ok(*INJECT).path
    text = ok("show", path).out
    assert "labels" in text
    assert "P(noisy | clean)" in text
    assert "40" in text
    assert json.loads(ok("show", path, "--json").out)["kind"] == "labels"


def test_hostile_class_names_do_not_reach_the_terminal(ok: Callable, tmp_path: Path) -> None:
    """T9: markup, links, escapes and carriage returns in class names are shown, not obeyed."""
    names = ["\x1b]8;;http://x\x07link", "[bold]x[/]", "[/]", "a\rb", "</script>", "\x1b[31mred"]
    rng = np.random.default_rng(0)
    X = rng.integers(0, 255, (60, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", X_train=X, y_train=np.arange(60) % 6, classes=np.array(names))
    ran = ok("inject-noise", "arrays:x.npz", "--type", "symmetric", "--ratio", "0.5")
    shown = ok("show", ran.path)
    for text in (shown.out, shown.err, ran.err):
        assert "\x1b" not in text
        assert "\r" not in text
    assert "\\x1b" in shown.out
    assert "</script>" in shown.out


def test_ctrl_c_and_sigterm_stop_cleanly(tmp_path: Path) -> None:
    """P4: 130 and 143 within seconds, nothing visible, and the same command goes on."""
    import signal
    import time

    rng = np.random.default_rng(0)
    X = rng.integers(0, 255, (20000, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "x.npz", X_train=X, y_train=rng.integers(0, 3, 20000))
    command = [
        sys.executable,
        "-m",
        "nmtool",
        "extract",
        "timm:resnet18",
        "arrays:x.npz",
        "--untrained",
        "--image-size",
        "64",
        "-o",
        "out",
    ]
    for sign, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        running = subprocess.Popen(
            command,
            cwd=tmp_path,
            stderr=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Where the suite itself runs in the background, SIGINT is ignored, and children would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob(".nmtool-staging/*/owner.json")) and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.0)
        running.send_signal(sign)
        asked = time.monotonic()
        out, err = running.communicate(timeout=30)
        assert running.returncode == code, err
        assert time.monotonic() - asked < 10
        assert out == ""
        assert "Traceback" not in err
        assert not (tmp_path / "out").exists()


def test_a_reader_that_leaves_is_no_defect(ok: Callable, tmp_path: Path) -> None:
    path = ok(*INJECT).path
    line = f'"{sys.executable}" -m nmtool show "{path}" | true; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode in (0, 141)
    assert done.stderr == ""
