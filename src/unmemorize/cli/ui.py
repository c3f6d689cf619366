"""The command ``ui``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

from unmemorize._errors import ModelError
from unmemorize.cli._console import print_line
from unmemorize.cli._instruments import InstrumentOptions
from unmemorize.cli._model_options import (
    ModelOptions,
    PromptsOption,
    StatisticsOption,
    ThresholdOption,
)

if TYPE_CHECKING:
    from unmemorize.ui._studio import Studio


def command(
    *,
    prompts: PromptsOption = None,
    statistics: StatisticsOption = None,
    threshold: ThresholdOption = None,
    instruments: InstrumentOptions = InstrumentOptions(),
    port: Annotated[int, Parameter(validator=validators.Number(gte=1, lte=65535))] = 7860,
    model: ModelOptions = ModelOptions(),
) -> None:
    """Open a page in the browser to check prompts and images, and to mend the model.

    A prompt is checked by detection, while its images are drawn, with or without a guard. A picture
    of yours is compared with images of prompts that may bring it back, or audited. Suspects become
    an edited model with verdicts, a report and a pack of evidence. Only this machine can open the
    page. The bundled model needs no further options. Another model uses the statistics and the
    threshold kept for it, which are made first if they are missing, and --prompts gives it
    examples.

    Args:
        port: Port of this machine on which the page is served.
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
            model.load(),
            prompts=prompts,
            statistics=statistics,
            threshold=threshold,
            instruments=instruments,
            arguments=model.arguments,
        )

    serve(load, port, lambda address: print_line(f"{address} (Ctrl-C stops it)"))
