"""What the page works with.

The command `ui` imports this module late, so its page opens while these libraries load.
"""

from __future__ import annotations

from pathlib import Path

from unmemorize import testbed
from unmemorize._bundled import is_bundled, usual_for
from unmemorize._prompt_files import read_prompts
from unmemorize._prompts import Prompt
from unmemorize.cli._common import (
    generation_settings,
    planted_prompts,
)
from unmemorize.cli._instruments import InstrumentOptions
from unmemorize.cli.demo import suspects
from unmemorize.detection import Threshold, default_threshold
from unmemorize.localization import LocalizationSettings
from unmemorize.mitigation import OrdinaryCaptions
from unmemorize.pipelines import Model
from unmemorize.statistics import Statistics, default_statistics
from unmemorize.ui._studio import Studio, why_no_guard

_BATCH = 10
"""Images per pass."""
_UNMEMORIZED_EXAMPLES = 3
"""Captions of the bundled model that the page offers as examples without memory."""


def open_studio(
    model: Model,
    *,
    prompts: Path | None,
    statistics: Path | None,
    threshold: Path | None,
    instruments: InstrumentOptions,
    arguments: str,
) -> Studio:
    """Make a studio from the files that the options name, or from those of the bundled model.

    Raises:
        UnmemorizeError: a file is missing, malformed, or belongs to another model.
    """
    limit = Threshold.load(threshold) if threshold else default_threshold(model)
    bundled = is_bundled(model.pipe)
    generation = generation_settings(model, _BATCH)
    examples: list[Prompt] = []
    to_mend: list[Prompt] = []
    if prompts is not None:
        examples = to_mend = read_prompts(prompts)
    elif bundled:
        examples, to_mend = _bundled_examples(), suspects(full=False)
    return Studio(
        model=model,
        statistics=Statistics.load(statistics) if statistics else default_statistics(model),
        threshold=limit,
        localization=LocalizationSettings(
            noise=limit.settings, **usual_for(model.pipe, "criterion")
        ),
        generation=generation,
        captions=OrdinaryCaptions.of(model),
        descriptor=instruments.load_descriptor(bundled=bundled),
        clip=instruments.load_clip(bundled=bundled),
        prompts=tuple(examples),
        suspects=tuple(to_mend),
        arguments=arguments,
        why_no_guard=why_no_guard(model, generation),
    )


def _bundled_examples() -> list[Prompt]:
    """Return the memorized prompts of the bundled model, and a few that are not memorized.

    To mend them all takes hours, so the suspects are those of the demo.
    """
    unmemorized = testbed.captions("test")[:_UNMEMORIZED_EXAMPLES]
    return [*planted_prompts(), *map(Prompt, unmemorized)]
