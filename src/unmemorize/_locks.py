"""What several processes need, and one of them makes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

_logger = logging.getLogger("unmemorize")


@contextmanager
def made_once(path: Path) -> Iterator[None]:
    """Keep other processes from making the same file; a file system without locks cannot.

    Whoever had to wait finds the file when its turn comes.

    Args:
        path: the file. The lock lies beside it.
    """
    lock = FileLock(path.with_name(f".{path.name}.lock"), fallback_to_soft=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        _logger.warning("%s: another process makes it. Waiting for it.", path.name)
        lock.acquire()
    except (OSError, NotImplementedError):
        pass
    try:
        yield
    finally:
        with suppress(OSError):
            lock.release()
