"""A Hugging Face dataset by its name: from the hub where it can be reached, else from the library's own cache.

``datasets`` fetches and prepares it; what it leaves in its cache is then read as any folder is. Code of a dataset is
never run. A name is looked up once: where it led to is remembered for as long as it is there, so that one command
gives one dataset, and gives it at once; ``?revision=BRANCH`` asks the hub every time, ``?revision=SHA`` never again.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nmtool.artifact.memo import Memo
from nmtool.data import files
from nmtool.errors import DataError, InputMissingError, NmtoolError, UnavailableError, UsageError

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_NAME = re.compile(rf"{_PART}(/{_PART}){{0,2}}")
_PATIENCE_S = 5.0
_SHA = re.compile(r"[0-9a-f]{40}")


def fetch(name: str, config: str, revision: str, memo: Memo) -> list[Path]:
    """The folder in which ``datasets`` keeps a dataset, and the caches that its paths may lead into.

    Args:
        name: ``NAME``, ``USER/NAME``, ``NAME/CONFIG`` or ``USER/NAME/CONFIG``.
        config: the configuration, where it is not in the name.
        revision: a commit, branch or tag of the hub; empty for the default.
        memo: remembers the answer.

    Raises:
        UsageError: no name of a dataset, or no such configuration.
        UnavailableError: no package ``datasets``, or neither the hub nor the cache has it.
        DataError: it can't be prepared.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"the dataset {name!r}", "hf:NAME, hf:NAME/CONFIG, hf:USER/NAME/CONFIG or hf:FOLDER")
    question = ["hf-name", 1, name, config, revision]
    remembers = not revision or _SHA.fullmatch(revision) is not None
    known = memo.recall(question) if remembers else None
    if isinstance(known, list) and known and Path(known[0]).is_dir():
        return [Path(each) for each in known]
    found = _load(name, config, revision)
    if remembers:
        memo.remember(question, [str(each) for each in found])
    return found


def _load(name: str, config: str, revision: str) -> list[Path]:
    datasets = _package()
    parts = name.split("/")
    if Path(parts[0]).exists():
        raise InputMissingError(
            f"no folder {name!r}, but a folder {parts[0]!r}",
            "a folder",
            f"for a part of it, hf:{parts[0]}?config=NAME",
        )
    if parts[0] in {module.name for module in pkgutil.iter_modules(datasets.packaged_modules.__path__)}:
        # given its name, the library would read what lies in the working folder; one of its readers unpickles
        raise UsageError(f"{parts[0]!r} names a reader of datasets, no dataset", "a dataset of the hub, or a folder")
    # USER/NAME and NAME/CONFIG look alike: the first is tried first
    tries = [("/".join(parts[:2]), parts[2] if len(parts) > 2 else config)]
    if len(parts) == 2 and not config:
        tries.append((parts[0], parts[1]))
    if len(parts) > 2 and config:
        raise UsageError(f"{name!r} and config={config}", "one configuration", "leave one out")
    failed: list[NmtoolError] = []
    for repository, each in tries:
        try:
            return _one(datasets, repository, each, revision)
        except (UnavailableError, InputMissingError) as error:
            failed.append(error)
    raise next((error for error in failed if isinstance(error, UnavailableError)), failed[0])


def _package() -> Any:
    try:
        datasets = importlib.import_module("datasets")
    except ImportError:
        raise UnavailableError(
            "the package datasets is not installed", "it, for hf:NAME", "pip install 'nmtool[hf]'"
        ) from None
    if int(datasets.__version__.partition(".")[0]) < 4:
        raise UnavailableError(
            f"datasets {datasets.__version__}, which may run code from the hub",
            "version 4 or later",
            "pip install -U 'nmtool[hf]'",
        )
    return datasets


def _one(datasets: Any, repository: str, config: str, revision: str) -> list[Path]:
    """The places of one repository's configuration."""
    constants = importlib.import_module("huggingface_hub.constants")
    cache = Path(datasets.config.HF_DATASETS_CACHE)
    with _told(repository, cache, datasets), _quiet(datasets), _offline_if_barred(datasets):
        options = datasets.DownloadConfig(max_retries=1)
        loaded = datasets.load_dataset(repository, config or None, revision=revision or None, download_config=options)
        places = {Path(file["filename"]).parent for split in loaded.values() for file in split.cache_files}
    if len(places) != 1:
        raise DataError(f"{repository} does not lie in one folder of the cache", "one prepared dataset")
    return [*places, cache, Path(constants.HF_HUB_CACHE)]


@contextmanager
def _told(repository: str, cache: Path, datasets: Any) -> Iterator[None]:
    """Turn what the library raises into the error family; its exceptions have no common base."""
    try:
        yield
    except datasets.exceptions.DatasetNotFoundError as error:
        raise InputMissingError(_first(error), "a dataset of the hub, or a folder", "check the name") from None
    except (ConnectionError, FileNotFoundError) as error:
        raise UnavailableError(
            f"{repository} can't be had from the hub, and is not below {cache} ({_first(error)})",
            "a hub that can be reached, or a copy in the cache",
            f"load it where there is a network and copy {cache}, or name a folder: hf:FOLDER",
        ) from None
    except OSError as error:
        with files.told(f"the cache {cache}"):
            if error.errno is not None:
                raise
        raise UnavailableError(f"{repository} can't be had from the hub ({_first(error)})", "", "try again") from None
    except ValueError as error:
        if "find cache" in str(error):
            raise UnavailableError(
                f"{repository} can't be had from the hub, and below {cache} not all of it is there ({_first(error)})",
                "a hub that can be reached, or one of those",
            ) from None
        if "config" in str(error).lower():
            raise UsageError(f"{repository}: {_first(error)}", "one of its configurations", "hf:NAME/CONFIG") from None
        raise DataError(f"{repository} can't be prepared ({_first(error)})") from None
    except NmtoolError:
        raise
    except Exception as error:  # the library lets through what its readers and its HTTP client raise
        if type(error).__module__.partition(".")[0].startswith(("http", "requests", "huggingface_hub")):
            raise UnavailableError(
                f"{repository} can't be had from the hub ({_first(error)})", "", "try again"
            ) from None
        raise DataError(f"{repository} can't be prepared ({_first(error)})") from None


@contextmanager
def _quiet(datasets: Any) -> Iterator[None]:
    """No bars and warnings of the library's own: standard error is nmtool's."""
    shown, level = datasets.is_progress_bar_enabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if shown:
            datasets.enable_progress_bars()


@contextmanager
def _offline_if_barred(datasets: Any) -> Iterator[None]:
    """Offline mode where the hub does not answer: the library would ask it again and again, for most of a minute."""
    hub = importlib.import_module("huggingface_hub")
    before = datasets.config.HF_HUB_OFFLINE
    try:
        answers = hub.get_session().head(hub.constants.ENDPOINT, timeout=_PATIENCE_S).status_code < 500
    except Exception:  # of whichever HTTP client the hub's version has
        answers = False
    datasets.config.HF_HUB_OFFLINE = before or not answers
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def _first(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
