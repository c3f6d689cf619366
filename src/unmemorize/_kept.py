"""Results that are made once per model and kept in the user's cache.

CACHE/KIND/KEY.SUFFIX       the result
CACHE/KIND/KEY.partial      the run folder in which it is made, and resumed after an interruption

CACHE is the folder that the environment variable ``UNMEMORIZE_CACHE`` names, by default the place
where the platform keeps caches. Any file in it can be deleted: it is made again.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from platformdirs import user_cache_path

from unmemorize._errors import OtherRunError, UnmemorizeError
from unmemorize._locks import made_once

Result = TypeVar("Result")

CACHE_VARIABLE = "UNMEMORIZE_CACHE"

_logger = logging.getLogger("unmemorize")


def cache_folder() -> Path:
    """Return the folder of kept results. It need not exist."""
    named = os.environ.get(CACHE_VARIABLE)
    return Path(named).expanduser() if named else user_cache_path("unmemorize")


def kept(
    path: Path,
    load: Callable[[Path], Result],
    make: Callable[[Path], Result],
    save: Callable[[Result, Path], None],
    *,
    about: str,
    error: type[UnmemorizeError],
) -> Result:
    """Return a kept result, which is made first where it is missing or cannot be used.

    Of several processes that need it at once, one makes it and the others wait.

    Args:
        path: the file in the cache.
        load: reads it. An `UnmemorizeError` means that it is damaged or not this model's.
        make: computes it. It is given a run folder in which an interrupted computation is resumed.
            An `OtherRunError` means that it cannot be; then the folder is deleted, and ``make`` is
            called again.
        save: writes it.
        about: what it is, as the beginning of a sentence.
        error: what is raised where the cache cannot be used.

    Raises:
        UnmemorizeError: the given ``error``, or that of ``make``. What was computed so far stays.
    """
    result = _loaded(path, load, about)
    if result is not None:
        return result
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with made_once(path):
            # another process may have made it meanwhile
            result = _loaded(path, load, about)
            if result is not None:
                return result
            partial = path.with_suffix(".partial")
            try:
                result = make(partial)
            except OtherRunError as problem:  # of another batch size or an older version
                _logger.warning("%s: made from the beginning (%s)", about, problem)
                shutil.rmtree(partial)
                result = make(partial)
            _save(result, path, save, error)
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as problem:
        raise error(
            f"{path.parent}: results cannot be kept there ({problem.strerror or problem}). "
            f"Free some space, or name another folder with {CACHE_VARIABLE}."
        ) from problem
    _logger.info("%s: kept in %s", about, path)
    return result


def _save(
    result: Result,
    path: Path,
    save: Callable[[Result, Path], None],
    error: type[UnmemorizeError],
) -> None:
    try:
        save(result, path)
    except UnmemorizeError as problem:
        raise error(
            f"{problem} The results so far stay, and the same call resumes. {CACHE_VARIABLE} names "
            "another folder."
        ) from problem


def _loaded(path: Path, load: Callable[[Path], Result], about: str) -> Result | None:
    if not path.exists():
        return None
    try:
        result = load(path)
    except UnmemorizeError as problem:
        _logger.warning("%s: the kept file cannot be used and is made again (%s)", about, problem)
        return None
    _logger.info("%s: %s", about, path)
    return result
