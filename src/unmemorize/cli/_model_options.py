"""Options of commands that work on a model: which one, and the files that belong to it. Nothing here loads a library that takes seconds."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Annotated, Any

import typer

PromptsOption = Annotated[
    Path | None,
    typer.Option(
        help="Prompts: .txt, .csv, .jsonl or .parquet, or a folder of such. With --model testbed by default its own.",
        show_default=False,
    ),
]
StatisticsOption = Annotated[
    Path | None,
    typer.Option(
        help="From unmemorize statistics. With --model testbed by default its own.",
        show_default=False,
    ),
]
ThresholdOption = Annotated[
    Path | None,
    typer.Option(
        help="From unmemorize threshold. With --model testbed by default its own.",
        show_default=False,
    ),
]


def _loading_options(
    model: Annotated[
        str,
        typer.Option(
            "--model", "-m", help="Hub id, diffusers folder, or testbed (the bundled model)."
        ),
    ] = "testbed",
    device: Annotated[
        str, typer.Option(help="auto (CUDA, MPS or CPU), or a torch device such as cuda:1.")
    ] = "auto",
    dtype: Annotated[
        str,
        typer.Option(help="auto (float16 on CUDA, else float32), float32, float16 or bfloat16."),
    ] = "auto",
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit of the Hub.", show_default=False)
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="Weight variant, such as fp16.", show_default=False)
    ] = None,
    local_files_only: Annotated[
        bool, typer.Option("--local-files-only", help="Never ask the Hub.")
    ] = False,
    value_layers: Annotated[
        str | None,
        typer.Option(
            help="Pattern with * over the value layers' paths, for an architecture that is not known.",
            show_default=False,
        ),
    ] = None,
) -> Any:
    # imported when they are used, since diffusers takes seconds, and the page is to open before
    from unmemorize.pipelines import Model

    return Model.load(
        model,
        device=device,
        dtype=dtype,
        revision=revision,
        variant=variant,
        local_files_only=local_files_only,
        value_layers=value_layers,
    )


def given_by(
    name: str, maker: Callable[..., Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Commands whose parameter of this name is made by a function have that function's options in its place.

    An option that the command declares itself, such as ``model`` as an argument, takes the place of the function's, and both get it.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = [
            parameter
            for parameter in inspect.signature(command, eval_str=True).parameters.values()
            if parameter.name != name
        ]
        made = list(inspect.signature(maker, eval_str=True).parameters.values())

        def run(**arguments: Any) -> None:
            options = {parameter.name: arguments[parameter.name] for parameter in made}
            command(
                **{name: maker(**options)},
                **{parameter.name: arguments[parameter.name] for parameter in own},
            )

        named = {parameter.name for parameter in own}
        more = [parameter for parameter in made if parameter.name not in named]
        parameters = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *more)
        ]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        run.__name__, run.__doc__ = command.__name__, command.__doc__
        return run

    return decorate


takes_model = given_by("pipe", _loading_options)
"""Gives a command the options that load a model, in place of its parameter ``pipe``."""


@wraps(_loading_options)
def _loading_later(**options: Any) -> Callable[[], Any]:
    return partial(_loading_options, **options)


takes_loader = given_by("load_pipe", _loading_later)
"""The same, in place of a parameter ``load_pipe``: the model is loaded when that is called."""
