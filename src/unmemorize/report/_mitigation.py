"""The report of a mitigation: the verdicts, and the pictures that show them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from unmemorize.metrics import read_image, read_references
from unmemorize.mitigation import (
    MitigationResult,
    MitigationRun,
    PromptOutcome,
    pooled,
)
from unmemorize.report._page import render
from unmemorize.report._pictures import Pictures, data_url, data_urls
from unmemorize.runs import Run, stream_prompts

_PICTURES = Pictures(side=192, quality=88, most=4)
_SMALL_PICTURES = Pictures(side=96, quality=70, most=2)
_MOST_LARGE = 60
"""Confirmed prompts with large pictures. With small ones the page stays below 25 MB at 500."""
_ORDINARY_SHOWN = 4
_MEASURES = {
    "image": "similarity of the whole image to a training image",
    "layout": "correlation with a training image over the layout",
    "agreement": "similarity to the most typical unedited image",
}


@dataclass(frozen=True)
class Wall:
    """One confirmed prompt with its pictures, those that copied most first.

    Args:
        outcome: its verdict.
        measure: what its copies are told by.
        training, before, after, control: data URLs.
    """

    outcome: PromptOutcome
    measure: str
    training: tuple[str, ...]
    before: tuple[str, ...]
    after: tuple[str, ...]
    control: tuple[str, ...]


def write_mitigation_report(run: Run) -> Path:
    """Write ``report.html`` into the folder of a finished mitigation.

    Raises:
        RunError: the mitigation is not finished, or a record is damaged.
        MetricError: an image is missing or damaged.
    """
    result = MitigationResult.load(run)
    settings = run.settings(MitigationRun).settings
    confirmed = [outcome for outcome in result.outcomes if outcome.confirmed]
    page = render(
        "mitigation.html.j2",
        manifest=run.manifest,
        result=result,
        settings=settings,
        headline=result.headline,
        before=pooled([outcome.before for outcome in confirmed if outcome.before]),
        after=pooled([outcome.after for outcome in confirmed if outcome.after]),
        confirmed=len(confirmed),
        wall=list(_wall(run, confirmed)),
        others=[outcome for outcome in result.outcomes if outcome not in confirmed],
        ordinary=list(_ordinary(run, result)),
    )
    return run.write("report.html", page)


def _wall(run: Run, confirmed: list[PromptOutcome]) -> Iterator[Wall]:
    pictures = _PICTURES if len(confirmed) <= _MOST_LARGE else _SMALL_PICTURES
    prompts = list(stream_prompts(run))
    for outcome in sorted(confirmed, key=_worst_first):
        training = read_references(prompts[outcome.index].images[: pictures.most]).images
        scores = outcome.scores_after
        order = sorted(range(len(outcome.files_before)), key=lambda seed: -scores[seed])
        yield Wall(
            outcome,
            _MEASURES[outcome.measure or "image"],
            data_urls(training, pictures),
            _urls(run, [outcome.files_before[seed] for seed in order], pictures),
            _urls(run, [outcome.files_after[seed] for seed in order], pictures),
            _urls(run, list(outcome.files_control), pictures),
        )


def _worst_first(outcome: PromptOutcome) -> tuple[bool, float]:
    worst = -1.0 if outcome.worst_after is None else outcome.worst_after
    return outcome.status == "removed", -worst


def _urls(run: Run, names: list[str], pictures: Pictures) -> tuple[str, ...]:
    files = [run.folder / name for name in names[: pictures.most]]
    return data_urls(map(read_image, files), pictures)


def _ordinary(run: Run, result: MitigationResult) -> Iterator[tuple[str, str, str]]:
    """Yield caption, image before and image after of the ordinary images that changed most."""
    if result.ordinary is None:
        return
    for caption, before, after in result.ordinary.shown[:_ORDINARY_SHOWN]:
        first, second = (read_image(run.folder / file) for file in (before, after))
        yield (
            caption,
            data_url(first, _PICTURES.side, _PICTURES.quality),
            data_url(second, _PICTURES.side, _PICTURES.quality),
        )
