"""Options that several commands have: which model, which files, how noise is drawn, who works."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from diffusers import DiffusionPipeline

from unmemorize._errors import RunError
from unmemorize._loading import load_pipeline
from unmemorize._similarity import Protocol
from unmemorize._value_layers import name_value_layers
from unmemorize.drivers import Engine, InProcess, RayActors, Shard, Workers

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, made by unmemorize localize.", show_default=False)]
RunOption = Annotated[
    Path, typer.Option("--run", "-o", help="Run folder; the same command again does only what is missing.", show_default=False)
]
PromptsOption = Annotated[
    Path | None,
    typer.Option(
        help="Prompts: .txt, .csv, .jsonl or .parquet, or a folder of such. With --model testbed by default its own.", show_default=False
    ),
]
StatisticsOption = Annotated[
    Path | None, typer.Option(help="From unmemorize statistics. With --model testbed by default its own.", show_default=False)
]
ThresholdOption = Annotated[
    Path | None, typer.Option(help="From unmemorize threshold. With --model testbed by default its own.", show_default=False)
]
TauOption = Annotated[
    float | None,
    typer.Option(help="A known threshold instead, such as 0.428 of the paper for Stable Diffusion v1.4.", show_default=False),
]
SeedsOption = Annotated[int | None, typer.Option(min=2, help="Initial noises per prompt. [default: as calibrated; 10]", show_default=False)]
SeedOption = Annotated[int | None, typer.Option(help="Of the generator that draws them. [default: as calibrated; 1]", show_default=False)]
ProtocolOption = Annotated[
    Protocol | None,
    typer.Option(help="Which of the first two timesteps is evaluated. [default: as calibrated; upstream]", show_default=False),
]
GuidanceOption = Annotated[
    float | None, typer.Option(help="Classifier-free guidance; 0 is none. [default: as calibrated; 0]", show_default=False)
]


def _loading_options(
    model: Annotated[str, typer.Option("--model", "-m", help="Hub id, diffusers folder, or testbed (the bundled model).")] = "testbed",
    device: Annotated[str, typer.Option(help="auto (CUDA, MPS or CPU), or a torch device such as cuda:1.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto (float16 on CUDA, else float32), float32, float16 or bfloat16.")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the Hub.", show_default=False)] = None,
    variant: Annotated[str | None, typer.Option(help="Weight variant, such as fp16.", show_default=False)] = None,
    local_files_only: Annotated[bool, typer.Option("--local-files-only", help="Never ask the Hub.")] = False,
    value_layers: Annotated[
        str | None,
        typer.Option(help="Pattern with * over the value layers' paths, for an architecture that is not known.", show_default=False),
    ] = None,
) -> DiffusionPipeline:
    name_value_layers(value_layers)
    return load_pipeline(model, device=device, dtype=dtype, revision=revision, variant=variant, local_files_only=local_files_only)


def _given_by(name: str, maker: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Commands whose parameter of this name is made by a function have that function's options in its place.

    An option that the command declares itself, such as ``model`` as an argument, takes the place of the function's, and both get it.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [parameter for parameter in inspect.signature(command, eval_str=True).parameters.values() if parameter.name != name]
        made = list(inspect.signature(maker, eval_str=True).parameters.values())

        def run(**arguments: Any) -> None:
            options = {parameter.name: arguments[parameter.name] for parameter in made}
            command(**{name: maker(**options)}, **{parameter.name: arguments[parameter.name] for parameter in own})

        named = {parameter.name for parameter in own}
        more = [parameter for parameter in made if parameter.name not in named]
        parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *more)]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


takes_model = _given_by("pipe", _loading_options)
"""Gives a command the options that load a model, in place of its parameter ``pipe``."""


def _engine_options(
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Processes, each with its own model: one per GPU, or several on the CPU. [default: none but this one; 1 Ray actor]",
            show_default=False,
        ),
    ] = None,
    engine: Annotated[Literal["local", "ray"], typer.Option(help="Where workers are: on this machine, or Ray actors.")] = "local",
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster, such as auto. [default: a Ray of its own]", show_default=False)
    ] = None,
    gpus: Annotated[
        float | None, typer.Option(min=0, help="Of each Ray actor. [default: 1 if the cluster has any]", show_default=False)
    ] = None,
) -> Engine:
    if engine != "ray" and (address is not None or gpus is not None):
        raise RunError("--address and --gpus are of Ray actors. Add --engine ray, or leave them out.")
    if engine == "ray":
        return RayActors(workers or 1, gpus=gpus, address=address)
    return Workers(workers) if workers else InProcess()


takes_engine = _given_by("engine", _engine_options)
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
    bool, typer.Option("--new-run", help="Where the folder holds a run of other settings, take FOLDER-2, FOLDER-3 and so on.")
]
