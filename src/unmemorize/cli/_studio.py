"""What the page works with. Apart from the command: the page opens while these libraries load."""

from __future__ import annotations

from pathlib import Path

from unmemorize import testbed
from unmemorize._bundled import is_bundled
from unmemorize._prompts import Prompt
from unmemorize.cli._common import (
    bundled_defaults,
    planted_prompts,
    prompts_or_bundled,
)
from unmemorize.detection import Threshold, default_threshold
from unmemorize.generation import GenerationSettings
from unmemorize.localization import LocalizationSettings
from unmemorize.metrics import BundledDescriptor, FileDescriptor
from unmemorize.pipelines import Model
from unmemorize.statistics import Statistics, default_statistics
from unmemorize.ui._studio import Studio

_UNMEMORIZED_EXAMPLES = 3
"""Captions of the bundled model that the page offers as examples without memory."""


def open_studio(
    model: Model,
    *,
    prompts: Path | None,
    statistics: Path | None,
    threshold: Path | None,
    sscd: Path | None,
) -> Studio:
    """Make a studio from the files that the options name, or from those of the bundled model.

    Raises:
        UnmemorizeError: a file is missing, malformed, or belongs to another model.
    """
    measured = Statistics.load(statistics) if statistics else default_statistics(model)
    limit = Threshold.load(threshold) if threshold else default_threshold(model)
    bundled = is_bundled(model.pipe)
    settings = LocalizationSettings(noise=limit.settings, **bundled_defaults(model, "criterion"))
    generation = GenerationSettings(**bundled_defaults(model, "steps", "guidance"))
    examples: list[Prompt] = []
    if prompts or bundled:
        examples = list(prompts_or_bundled(model, prompts, _bundled_examples))
    descriptor = FileDescriptor.sscd(sscd) if sscd else BundledDescriptor() if bundled else None
    return Studio(model, measured, limit, settings, generation, examples, descriptor)


def _bundled_examples() -> list[Prompt]:
    """Return the memorized prompts of the bundled model, and a few that are not memorized."""
    unmemorized = testbed.captions("test")[:_UNMEMORIZED_EXAMPLES]
    return [*planted_prompts(), *map(Prompt, unmemorized)]
