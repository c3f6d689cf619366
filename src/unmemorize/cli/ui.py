"""The command ``ui``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unmemorize._errors import ModelError
from unmemorize.cli._console import console
from unmemorize.cli._model_options import (
    PromptsOption,
    StatisticsOption,
    ThresholdOption,
    takes_loader,
)

if TYPE_CHECKING:
    from unmemorize.ui._studio import Studio


@takes_loader
def command(
    load_pipe: Callable[[], Any],
    prompts: PromptsOption = None,
    statistics: StatisticsOption = None,
    threshold: ThresholdOption = None,
    sscd: Annotated[
        Path | None,
        typer.Option(
            help="SSCD, for copy scores on prompts whose training images --prompts names: a file from unmemorize fetch sscd. "
            "The bundled model has a descriptor of its own.",
            show_default=False,
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of this machine.")] = 7860,
) -> None:
    """A page in the browser: probe a prompt, localize its neurons, switch them off one by one, and take them home.

    Only this machine can open it. On the bundled model it needs nothing else; for another one name statistics and threshold, and as
    examples a prompt file.
    """
    try:
        from unmemorize.ui._serve import serve
    except ImportError as problem:
        raise ModelError("the page needs Gradio. pip install 'unmemorize[ui]'") from problem

    def load() -> Studio:
        from unmemorize.cli._studio import open_studio
        from unmemorize.pipelines import quiet_libraries

        quiet_libraries()
        return open_studio(
            load_pipe(), prompts=prompts, statistics=statistics, threshold=threshold, sscd=sscd
        )

    serve(load, port, lambda address: console.print(f"{address} (Ctrl-C stops it)"))
