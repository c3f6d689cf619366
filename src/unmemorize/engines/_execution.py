"""How a task over many prompts is carried out: by which engine, and which shard of it."""

from __future__ import annotations

from dataclasses import dataclass, field

from unmemorize.engines._engine import Engine, InProcess
from unmemorize.engines._progress import Progress, silent
from unmemorize.engines._units import Shard


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How work on many prompts is carried out. It never changes the results.

    Args:
        engine: who does the work; by default this process.
        shard: the share of the work to do; by default all of it.
        patience: seconds for which a stage on which others rest waits for the other shards without
            seeing a new record of theirs. By default it does not wait.
        progress: called with the number of finished items and of all items.

    Examples:
        >>> Execution(shard=Shard.parse("1/4")).shard
        Shard(number=1, count=4)
    """

    engine: Engine = field(default_factory=InProcess)
    shard: Shard | None = None
    patience: float = 0.0
    progress: Progress = silent

    @property
    def is_first(self) -> bool:
        """Whether this one writes what all shards have worked for."""
        return self.shard is None or self.shard.number == 1
