"""Options that say who does the work, and which part of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.types import NonNegativeFloat, PositiveInt

from unmemorize._errors import RunError
from unmemorize.cli._console import print_answer, print_line
from unmemorize.cli._groups import WORKERS
from unmemorize.cli._model_options import Flag
from unmemorize.engines import Engine, Execution, InProcess, Progress, RayActors, Shard, Workers

RunArgument = Annotated[Path, Parameter(help="Run folder, as unmemorize localize makes it.")]
RunOption = Annotated[
    Path,
    Parameter(
        alias="-o", help="Run folder. The same command again does only what is missing there."
    ),
]
_PART = "Do only the I-th of N parts of the work, as each job of a Slurm array does."
ShardOption = Annotated[str | None, Parameter(metavar="I/N", help=_PART)]
_PATIENCE = 1800.0
"""Seconds without news of another shard after which a command gives up."""
WaitingShardOption = Annotated[
    str | None,
    Parameter(
        metavar="I/N",
        help=f"{_PART} They run at the same time on one folder: each waits for what others do, and "
        "gives up after half an hour without news.",
    ),
]
NewRunOption = Annotated[
    Flag,
    Parameter(
        help="Use FOLDER-2, FOLDER-3 and so on if the folder holds a run with other settings."
    ),
]


@Parameter(name="*", group=WORKERS)
@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Who does the work.

    Args:
        workers: Number of worker processes, each with its own model: one per GPU, or several on
            the CPU. Without this option the command itself works; Ray starts one actor.
        engine: Where the workers are: local (on this machine) or ray (Ray actors).
        address: Address of a Ray cluster, such as auto. Without it Ray is started on this machine.
        gpus: GPUs for each Ray actor. The default is 1 if the cluster has any, else 0.
    """

    workers: PositiveInt | None = None
    engine: Literal["local", "ray"] = "local"
    address: str | None = None
    gpus: NonNegativeFloat | None = None

    def execution(
        self, progress: Progress, shard: str | None = None, *, waits: bool = False
    ) -> Execution:
        """Make the execution of a task.

        Args:
            progress: see `Execution`.
            shard: as it was given.
            waits: whether stages wait for other shards.

        Raises:
            RunError: the shard is malformed, or options for Ray are given without it.
        """
        return Execution(
            engine=self._engine(),
            shard=parse_shard(shard),
            patience=_PATIENCE if waits else 0.0,
            progress=progress,
        )

    def _engine(self) -> Engine:
        if self.engine == "ray":
            return RayActors(self.workers or 1, gpus=self.gpus, address=self.address)
        if self.address is not None or self.gpus is not None:
            raise RunError(
                "--address and --gpus configure Ray actors. Add --engine ray, or leave them out."
            )
        return Workers(self.workers) if self.workers else InProcess()


def parse_shard(text: str | None) -> Shard | None:
    """Parse the value of ``--shard``.

    Raises:
        RunError: it does not have the form I/N.
    """
    return None if text is None else Shard.parse(text)


def left_to_first(execution: Execution, what: str, run: Path) -> bool:
    """Say that the first of several shards writes what all have worked for, if this is not it.

    Args:
        execution: which shard this is.
        what: the first one writes.
        run: the run folder, for the answer.
    """
    shard = execution.shard
    if shard is None or execution.is_first:
        return False
    print_line(f"Shard {shard.number} of {shard.count} is done. The first one writes the {what}.")
    print_answer(run=run, shard=f"{shard.number}/{shard.count}")
    return True
