"""Options that several commands have: which run, how noise is drawn, who works."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from unmemorize._errors import RunError
from unmemorize.cli._model_options import given_by
from unmemorize.detection import Protocol
from unmemorize.engines import Engine, InProcess, RayActors, Shard, Workers

RunArgument = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help="Run folder, made by unmemorize localize.", show_default=False
    ),
]
RunOption = Annotated[
    Path,
    typer.Option(
        "--run",
        "-o",
        help="Run folder; the same command again does only what is missing.",
        show_default=False,
    ),
]
TauOption = Annotated[
    float | None,
    typer.Option(
        help="A known threshold instead, such as 0.428 of the paper for Stable Diffusion v1.4.",
        show_default=False,
    ),
]
SeedsOption = Annotated[
    int | None,
    typer.Option(
        min=2, help="Initial noises per prompt. [default: as calibrated; 10]", show_default=False
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option(
        help="Of the generator that draws them. [default: as calibrated; 1]", show_default=False
    ),
]
ProtocolOption = Annotated[
    Protocol | None,
    typer.Option(
        help="Which of the first two timesteps is evaluated. [default: as calibrated; published]",
        show_default=False,
    ),
]
GuidanceOption = Annotated[
    float | None,
    typer.Option(
        help="Classifier-free guidance; 0 is none. [default: as calibrated; 0]", show_default=False
    ),
]


def _engine_options(
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes, each with its own model: one per GPU, or several on the CPU. [default: none but this one; 1 Ray actor]",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[
        Literal["local", "ray"],
        typer.Option(help="Where workers are: on this machine, or Ray actors."),
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            help="Of a Ray cluster, such as auto. [default: a Ray of its own]", show_default=False
        ),
    ] = None,
    gpus: Annotated[
        float | None,
        typer.Option(
            min=0, help="Of each Ray actor. [default: 1 if the cluster has any]", show_default=False
        ),
    ] = None,
) -> Engine:
    if engine != "ray" and (address is not None or gpus is not None):
        raise RunError(
            "--address and --gpus are of Ray actors. Add --engine ray, or leave them out."
        )
    if engine == "ray":
        return RayActors(workers or 1, gpus=gpus, address=address)
    return Workers(workers) if workers else InProcess()


takes_engine = given_by("engine", _engine_options)
"""Gives a command the options that say who works, in place of its parameter ``engine``."""

ShardOption = Annotated[
    Shard | None,
    typer.Option(
        metavar="I/N",
        parser=Shard.parse,
        help="Only this part of the work, for programs that know nothing of each other such as those of a Slurm array.",
        show_default=False,
    ),
]
NewRunOption = Annotated[
    bool,
    typer.Option(
        "--new-run",
        help="Where the folder holds a run of other settings, take FOLDER-2, FOLDER-3 and so on.",
    ),
]
