"""What the page works with, from the options of ``ui``. Apart from the command, so that the page opens while these libraries load."""

from __future__ import annotations

from pathlib import Path

from unmemorize import testbed
from unmemorize._prompts import Prompt
from unmemorize.cli._common import file_or_default, is_bundled, stream_or_default
from unmemorize.detection import Threshold
from unmemorize.generation import GenerationSettings
from unmemorize.localization import LocalizationSettings
from unmemorize.metrics import BundledDescriptor, FileDescriptor
from unmemorize.pipelines import Model
from unmemorize.statistics import Statistics
from unmemorize.ui._studio import Studio


def open_studio(
    pipe: Model,
    *,
    prompts: Path | None,
    statistics: Path | None,
    threshold: Path | None,
    sscd: Path | None,
) -> Studio:
    """A model with the files named, or for the bundled model its own.

    Raises:
        UnmemorizeError: one is missing, malformed, or another model's.
    """
    measured = Statistics.load(
        file_or_default(pipe, statistics, testbed.statistics_path, "statistics")
    )
    limit = Threshold.load(file_or_default(pipe, threshold, testbed.threshold_path, "threshold"))
    own = testbed.defaults() if is_bundled(pipe) else {}
    settings = LocalizationSettings(
        noise=limit.settings, criterion=own.get("criterion", "unblocked")
    )
    generation = GenerationSettings(
        **{name: own[name] for name in ("steps", "guidance") if name in own}
    )
    known = list(stream_or_default(pipe, prompts, _examples)) if prompts or own else []
    descriptor = FileDescriptor.sscd(sscd) if sscd else BundledDescriptor() if own else None
    return Studio(pipe, measured, limit, settings, generation, known, descriptor)


def _examples() -> list[Prompt]:
    """Of the bundled model: memorized prompts, and a few that are not."""
    return [
        *(entry.prompt for entry in testbed.planted()),
        *map(Prompt, testbed.captions("test")[:3]),
    ]
