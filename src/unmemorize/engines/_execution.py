"""How a task over many prompts is carried out: by whom, which part of it, and who is told."""

from __future__ import annotations

from dataclasses import dataclass, field

from unmemorize._progress import Progress, silent
from unmemorize.engines._engine import Engine, InProcess
from unmemorize.engines._units import Shard


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Who works on many prompts; never what comes out.

    Args:
        engine: who does the work; by default this process.
        shard: the part of the work to do; by default all of it.
        progress: called with the items done and the items in all.

    >>> Execution(shard=Shard.parse("1/4")).shard
    Shard(number=1, count=4)
    """

    engine: Engine = field(default_factory=InProcess)
    shard: Shard | None = None
    progress: Progress = silent
