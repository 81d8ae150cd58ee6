"""The Typer application: one command a stage, made from the stage's declared settings, and the service verbs."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import os
import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from nmtool import __version__
from nmtool.console import Console, escape
from nmtool.errors import ConfigError, InputMissingError, UsageError
from nmtool.settings import flag_of, is_list, plain, resolve, types_of

if TYPE_CHECKING:  # numpy comes with records: --help does without
    from nmtool.artifact.stage import Ranks
    from nmtool.records import ArtifactRef

app = typer.Typer(
    name="nmtool",
    help="Noisy Model Learning: inject-noise → pretrain → extract → spectrum | tune → report.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

# command → (room, what it does). The order is the pipeline's.
STAGES = {
    "inject-noise": ("inject_noise", "Make labels or captions wrong, exactly and on record."),
    "pretrain": ("pretrain", "Train a backbone, on clean labels or on a labels artifact."),
    "extract": ("extract", "Encode every sample once, to features kept on disk."),
    "spectrum": ("spectrum", "Singular values of features: SVE, LSVR and rank."),
    "tune": ("tune", "Train heads on features; turn: fine-tune on noisy labels."),
    "audit": ("audit", "How probably each label is wrong, from features alone."),
    "report": ("report", "Tables and figures as one self-contained page."),
}
_PANEL = "In every stage"


def console_from(argv: Sequence[str]) -> Console:
    """The console that a command line asks for, before it is parsed: usage errors need one, too."""
    quiet = "--quiet" in argv or "-q" in argv
    verbose = "--verbose" in argv or "-v" in argv
    colour = sys.stderr.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    return Console(quiet=quiet, verbose=verbose, colour=colour)


def memo_root(store: Path) -> Path:
    """Where digests are remembered: the user's cache folder, or the store where there is no HOME (cron)."""
    for name, tail in (("NMTOOL_CACHE", ""), ("XDG_CACHE_HOME", "nmtool"), ("HOME", ".cache/nmtool")):
        if os.environ.get(name):
            return Path(os.environ[name]) / tail
    return store / ".memo"


def without_secret(word: str) -> str:
    """A word of the command line for the manifest: URLs lose userinfo, and the web's their query."""
    word = re.sub(r"(://)[^/?#]*@", r"\1", word)
    return re.sub(r"(https?://[^?#\s]*)[?#].*", r"\1", word, flags=re.DOTALL)


def ranks_of(command: str) -> Ranks:
    """Which of ``torchrun``'s processes this is; raises ``UsageError`` where several would do the same work."""
    from nmtool.artifact.stage import Ranks

    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    words = [os.environ.get(name, "") for name in names]
    if not all(word.isdigit() for word in words) or not os.environ.get("MASTER_ADDR"):
        return Ranks()
    rank, world, local, neighbours = map(int, words)
    if world > 1 and command not in ("extract", "tune"):
        raise UsageError(f"{command} in {world} processes", "one process: extract and tune are made for torchrun")
    return Ranks(rank=rank, world=world, local=local, neighbours=neighbours)


def _metavar(kind: Any, choices: tuple[str, ...]) -> str:
    bare = plain(kind)
    inner = get_args(bare)[0] if is_list(kind) else bare
    name = "|".join(choices) if choices else {int: "N", float: "X", str: "TEXT"}.get(inner, "TEXT")
    return f"{name}[,…]" if is_list(kind) else name


def _parameter(field: dataclasses.Field[Any], kind: Any) -> inspect.Parameter:
    """One command-line parameter from a declared setting. None means: not given."""
    meta = field.metadata
    many = is_list(kind) and (meta["repeat"] or meta["operand"])
    # a list may be given in parts, too: of a flag that is repeated no value may be lost in silence
    wanted: Any = bool if plain(kind) is bool else (list[str] if is_list(kind) else str)
    text = meta["doc"] + ("" if field.default in (dataclasses.MISSING, None, (), "") else f" [{_shown(field.default)}]")
    if meta["operand"]:
        optional = field.default is not dataclasses.MISSING
        info: Any = typer.Argument(metavar=field.name.upper() + ("…" if many else ""), help=text, show_default=False)
        default: Any = None if optional else inspect.Parameter.empty
    else:
        flag = flag_of(field)
        # with a slash: two names beside each other would both mean yes
        names = (f"{flag}/--no-{flag[2:]}",) if wanted is bool else (flag,)
        shown = None if wanted is bool else ("TEXT" if many else _metavar(kind, meta["choices"]))
        panel = _PANEL if field.name in ("seed", "device", "workers") else None
        info = typer.Option(*names, metavar=shown, help=text, show_default=False, rich_help_panel=panel)
        default = None
    annotation = wanted if meta["operand"] and default is inspect.Parameter.empty else wanted | None
    return inspect.Parameter(
        field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[annotation, info]
    )


def _shown(default: object) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    return ",".join(str(d) for d in default) if isinstance(default, tuple) else str(default)


_COMMON: dict[str, Any] = {
    "out": Annotated[
        str | None, typer.Option("--out", "-o", metavar="OUT", help="The artifact's path [STORE/KIND/NAME-KEY].")
    ],
    "store": Annotated[
        str | None, typer.Option(metavar="DIR", help="Where artifacts go without -o [$NMTOOL_STORE, else nmruns].")
    ],
    "config": Annotated[
        str | None, typer.Option(metavar="FILE.toml", help="Settings from the table named as the stage; flags win.")
    ],
    "json_": Annotated[bool, typer.Option("--json", help="Print one JSON object instead of the path.")],
    "force": Annotated[bool, typer.Option("--force", help="Compute again, and replace what is there.")],
    "dry_run": Annotated[
        bool, typer.Option("--dry-run", help="Print key, hit or miss and the work to do; write nothing.")
    ],
    "lock_wait": Annotated[
        float,
        typer.Option(
            metavar="SECONDS", min=0.0, help="Wait for another run of the same recipe [0].", show_default=False
        ),
    ],
    "quiet": Annotated[bool, typer.Option("--quiet", "-q", help="Errors only on stderr.")],
    "verbose": Annotated[bool, typer.Option("--verbose", "-v", help="More on stderr.")],
}
_COMMON_DEFAULTS: dict[str, Any] = {"lock_wait": 0.0, "out": None, "store": None, "config": None}


def _one_list(parts: list[str] | None) -> str | None:
    """``--method lp --method mlp`` as ``--method lp,mlp``; None where the flag is not given."""
    return ",".join(parts) if parts else None


def _stage_command(command: str, room: str, doc: str) -> Callable[..., None]:
    """A command function whose signature is the stage's settings and the common flags."""
    config_class = importlib.import_module(f"nmtool.{room}.config").Config
    kinds = types_of(config_class)
    fields = dataclasses.fields(config_class)
    lists = {
        f.name for f in fields if is_list(kinds[f.name]) and not f.metadata["repeat"] and not f.metadata["operand"]
    }
    common = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=_COMMON_DEFAULTS.get(name, False), annotation=annotation
        )
        for name, annotation in _COMMON.items()
    ]

    def stage(**given: Any) -> None:
        from nmtool.artifact.memo import Memo
        from nmtool.artifact.stage import Session

        ranks = ranks_of(command)
        console = console_from(sys.argv[1:] if ranks.rank == 0 else ["--quiet"])
        shared = {name: given.pop(name) for name in _COMMON}
        flags = {name: _one_list(value) if name in lists else value for name, value in given.items()}
        table, file = _toml(shared["config"], command)
        if "data_root" in kinds and flags["data_root"] is None and not {"data_root", "data-root"} & set(table):
            flags["data_root"] = os.environ.get("NMTOOL_DATA") or None
        config = resolve(config_class, flags, table, file)
        store = Path(shared["store"] or os.environ.get("NMTOOL_STORE") or "nmruns")
        session = Session(
            store=store,
            out=Path(shared["out"]) if shared["out"] else None,
            force=shared["force"],
            dry_run=shared["dry_run"],
            lock_wait=shared["lock_wait"],
            command=shlex.join(["nmtool", *map(without_secret, sys.argv[1:])]),
            report=console,
            memo=Memo(memo_root(store)),
            ranks=ranks,
            secret=os.environ.get,
        )
        outcome = importlib.import_module(f"nmtool.{room}.run").run(config, session)
        if ranks.rank == 0:
            _tell(outcome, as_json=shared["json_"], console=session.report)

    stage.__doc__ = doc
    stage.__name__ = room
    parameters = [_parameter(field, kinds[field.name]) for field in fields] + common
    stage.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    stage.__annotations__ = {p.name: p.annotation for p in parameters}
    return stage


def _toml(file: str | None, command: str) -> tuple[Mapping[str, object], str]:
    if file is None:
        return {}, ""
    path = Path(file)
    if not path.is_file():
        raise InputMissingError(f"--config {file} does not exist", "a TOML file")
    try:
        body = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} does not parse ({error})", "TOML") from None
    unknown = sorted(set(body) - set(STAGES))
    if unknown:
        raise ConfigError(f"unknown table [{unknown[0]}] in {file}", "tables named as stages: " + ", ".join(STAGES))
    table = body.get(command, {})
    if not isinstance(table, dict):
        raise ConfigError(f"{command} in {file} is no table", f"[{command}]")
    return table, file


def _json_of(ref: ArtifactRef) -> dict[str, object]:
    body: dict[str, object] = {
        "artifact": str(ref.path),
        "kind": ref.kind,
        "key": ref.key,
        "content": ref.content,
        "cached": ref.cached,
        "seconds": round(ref.seconds, 3),
    }
    if ref.planned:
        body |= {"dry_run": True, "work": ref.work}
    return body | {k: v for k, v in ref.summary.items() if k not in body}


def _tell(outcome: ArtifactRef | list[ArtifactRef], *, as_json: bool, console: Any) -> None:
    """stdout: the path of each artifact, or one JSON object."""
    refs = outcome if isinstance(outcome, list) else [outcome]
    for ref in refs:
        if ref.cached and not ref.planned:
            console.info(f"{ref.kind} {'are' if ref.kind.endswith('s') else 'is'} there already: {ref.path}")
    if as_json:
        bodies = [_json_of(ref) for ref in refs]
        body = bodies[0]
        if len(bodies) > 1:
            body = {
                **{name: bodies[0][name] for name in ("artifact", "kind", "key", "content")},
                "cached": all(ref.cached for ref in refs),
                "seconds": round(sum(ref.seconds for ref in refs), 3),
                "runs": bodies,
            }
        _print(json.dumps(body, ensure_ascii=False, allow_nan=False))
        return
    for ref in refs:
        if not ref.planned:
            _print(str(ref.path))
        else:
            state = "hit" if ref.cached else "miss"
            _print(f"{state} {ref.key} {ref.path}" + (f": {escape(ref.work)}" if ref.work else ""))


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")


def _version(value: bool) -> None:
    if value:
        _print(f"nmtool {__version__}")
        raise typer.Exit(0)


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


for _command, (_room, _doc) in STAGES.items():
    app.command(_command)(_stage_command(_command, _room, _doc))

from nmtool.cli import service as _service  # noqa: E402

_service.register(app)
