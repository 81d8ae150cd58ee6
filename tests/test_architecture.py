"""The house's import law and monopolies, read off the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "nmtool"
FILES = sorted(PACKAGE.rglob("*.py"))
ROOMS = {"inject_noise", "pretrain", "extract", "spectrum", "tune", "audit", "report"}
SHARED = {"numerics", "data", "encoders", "artifact"}
# Who may be imported by whom; records, errors and settings by everybody above them.
BASE = {"errors", "records", "settings", "console", ""}
MAY = {
    "errors": set(),
    "records": {"errors"},
    "settings": {"errors"},
    "console": set(),
    "numerics": {"errors", "records", "numerics"},
    "artifact": {"errors", "records", "artifact", ""},
    # Sources and encoders remember digests, and read backbone artifacts.
    "data": {"errors", "records", "numerics", "artifact", "data"},
    "encoders": {"errors", "records", "numerics", "artifact", "encoders", "data"},
}
HEAVY = {"torch", "timm", "zarr", "sklearn", "torchvision", "matplotlib", "jinja2", "scipy", "pyarrow"}


def room_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts in (("__init__",), ("__main__",)) else parts[0]


def imports(tree: ast.AST) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def calls(tree: ast.AST) -> list[str]:
    return [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_imports_follow_the_law(path: Path) -> None:
    room = room_of(path)
    tree = ast.parse(path.read_text())
    wanted = {name.split(".")[1] if name.count(".") else "" for name in imports(tree) if name.split(".")[0] == "nmtool"}
    wanted -= {"__version__"}
    if room in ROOMS:
        allowed = SHARED | BASE | {room}
    elif room in ("cli", ""):
        return
    else:
        allowed = MAY[room]
    assert wanted <= allowed, f"{path.name} imports {wanted - allowed}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_every_file_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{path} has no docstring"


MONOPOLIES = {
    "torch.load": "encoders/checkpoints.py",
    "Image.open": "data/images.py",
    "sys.exit": "cli/",
    "os.environ.get": "cli/",
    "sys.stdout.write": "cli/",
    "print": "cli/",
    "os.fsync": "artifact/",
    "torch.save": "nowhere",
    "pickle.load": "nowhere",
    "pickle.loads": "nowhere",
    "np.random.seed": "nowhere",
    "torch.manual_seed": "nowhere",
    "os.system": "nowhere",
    "eval": "nowhere",
    "exec": "nowhere",
    "subprocess.run": "nowhere",
}


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_monopolies(path: Path) -> None:
    where = path.relative_to(PACKAGE).as_posix()
    tree = ast.parse(path.read_text())
    for name in calls(tree):
        owner = MONOPOLIES.get(name)
        assert owner is None or where.startswith(owner), f"{where} calls {name}, which only {owner} may"
    if not where.startswith(("artifact/", "cli/")):
        writes = [
            n for n in calls(tree) if n.rpartition(".")[2] in ("write_text", "write_bytes", "mkdir", "unlink", "rmtree")
        ]
        assert not writes, f"{where} writes to disk: {writes}"
    if not where.startswith("cli/"):
        assert "os.environ" not in ast.unparse(tree), f"{where} reads the environment"


@pytest.mark.parametrize("room", [*sorted(ROOMS), "cli"])
def test_importing_a_room_loads_nothing_heavy(room: str) -> None:
    modules = ["nmtool.cli.app"] if room == "cli" else [f"nmtool.{room}.config", f"nmtool.{room}.run"]
    code = (
        f"import sys; import {', '.join(modules)}; "
        f"print(','.join(sorted({HEAVY!r} & {{m.split('.')[0] for m in sys.modules}})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_help_loads_not_even_numpy() -> None:
    code = (
        "import sys; from nmtool.cli import run; sys.argv = ['nmtool', '--help']; run(['--help']);"
        "sys.stderr.write(str('numpy' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "False"
    assert "inject-noise" in done.stdout


def test_every_setting_is_declared() -> None:
    """P10: a field that does not say whether it is part of the key fails here."""
    import dataclasses
    import importlib

    for room in ROOMS:
        for field in dataclasses.fields(importlib.import_module(f"nmtool.{room}.config").Config):
            assert isinstance(field.metadata.get("key"), bool), f"{room}.{field.name}"
            assert field.metadata.get("doc"), f"{room}.{field.name} does not say what it is for"
            assert "\n" not in field.metadata["doc"]
