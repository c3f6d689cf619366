"""How a mitigation stands: its stages in their order, each with what is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from unmemorize._words import counted
from unmemorize.detection import read_detections
from unmemorize.methods import StepsDone
from unmemorize.mitigation._confirmation import BEFORE, read_confirmations
from unmemorize.mitigation._guides import DRAWN, SCORED
from unmemorize.mitigation._run_settings import MitigationRun
from unmemorize.mitigation._trained import trainings_of
from unmemorize.mitigation._work import CERTIFICATE, COUNT, SEARCH
from unmemorize.runs import Run, Status

_UNEDITED = ("ordinary-before", "ordinary-other")
_AGAIN = "-again"
"""How records of a second look at some prompts under an edit end."""


@dataclass(frozen=True)
class Standing:
    """How one stage of a mitigation stands.

    Args:
        stage: its name.
        what: what it counts.
        done: how many of these are finished.
        total: how many there are; None where the stage itself decides that, or an earlier one that
            is not finished.
        rate: items per second of its latest work; None where there was none.
        idle: seconds since its last item was finished; None where there was none.
    """

    stage: str
    what: str
    done: int
    total: int | None
    rate: float | None
    idle: float | None

    @property
    def left(self) -> float | None:
        """Seconds until the stage is finished at this rate; None where nobody can tell."""
        if self.rate is None or self.total is None or self.done >= self.total:
            return None
        return (self.total - self.done) / self.rate


def standings(run: Run, states: Sequence[Status]) -> tuple[Standing, ...]:
    """Sum up the state of a mitigation by stage.

    Args:
        run: a mitigation, finished or not.
        states: what `status_of` returned for it.

    Returns:
        All stages in the order in which they begin. Search, side effects and training take turns.

    Raises:
        RunError: a record is damaged.
    """

    def of(*starts: str) -> list[Status]:
        return [status for status in states if status.name.startswith(starts)]

    made_of = run.settings(MitigationRun)
    settings = made_of.settings
    controls = {status.name.removeprefix("control-") for status in of("control-")}
    control = of(*(f"ordinary-{digest}" for digest in controls)) if controls else []
    unedited = of(*_UNEDITED)
    effects = [each for each in of("ordinary-") if each not in (*unedited, *control)]
    tried = of(f"{SEARCH}-")
    again = [status for status in tried if status.name.endswith(_AGAIN)]
    first = [status for status in tried if status not in again]
    certified, counted = of(f"{CERTIFICATE}-"), of(f"{COUNT}-")
    suspects = run.manifest.items
    called = _called(run, suspects)
    confirmed = _confirmed(run)
    sets = 2 if (settings.distances and made_of.clip) or len(unedited) > 1 else 1
    whole, sample = settings.ordinary_images, settings.sample
    effects_total = sum(whole if status.done > sample else sample for status in effects)
    guides, drawn = of(*SCORED.values()), of(f"{DRAWN}-")
    single = len(certified) <= 1
    fresh = "prompts on fresh seeds" if single else f"prompts, {len(certified)} attempts"
    return (
        _standing("ordinary", "ordinary captions, drawn", unedited, sets * whole),
        _standing("screen", "suspects scored", of("detections"), suspects),
        _standing("confirm", "suspects drawn, unedited", of(BEFORE), called),
        _standing("localize", "memorized prompts", of("localizations"), confirmed),
        _standing("guides", "guides that were scored", guides, None, drawn),
        _standing("search", f"prompts, under {_edits(first)}", first, None, again),
        _standing("side effects", f"images, {_edits(effects)}", effects, effects_total or None),
        _training(run),
        _standing("certify", fresh, certified, confirmed if single else None, counted),
        _standing("final", "images for the report", _final(states, control), None),
    )


def _standing(
    stage: str,
    what: str,
    counted: Sequence[Status],
    total: int | None,
    others: Sequence[Status] = (),
) -> Standing:
    """Sum up the records of a stage; ``others`` belong to it, too, but do not count."""
    begun = [status for status in (*counted, *others) if status.idle is not None]
    latest = min(begun, key=lambda status: status.idle or 0, default=None)
    return Standing(
        stage=stage,
        what=what,
        done=sum(status.done for status in counted),
        total=total,
        rate=latest.rate if latest else None,
        idle=latest.idle if latest else None,
    )


def _training(run: Run) -> Standing:
    """Sum up the steps of all trainings, whose number the search decides.

    When a training was finished is not known.
    """
    states = list(trainings_of(run))
    unfinished = [each.done for each in states if each.done.idle is not None]
    latest = min(unfinished, key=lambda each: each.idle or 0, default=StepsDone())
    return Standing(
        stage="training",
        what=f"steps, {counted(len(states), 'training')}",
        done=sum(each.done.steps for each in states),
        total=sum(each.total for each in states) or None,
        rate=latest.rate,
        idle=latest.idle,
    )


def _final(states: Sequence[Status], control: Sequence[Status]) -> list[Status]:
    starts = ("after-", "control-", "paraphrases-")
    return [*control, *(status for status in states if status.name.startswith(starts))]


def _edits(states: Sequence[Status]) -> str:
    return counted(len(states), "edit")


def _called(run: Run, suspects: int) -> int | None:
    """Count the suspects that are drawn; None until all are scored."""
    level = run.settings(MitigationRun).tau
    scores = [found.score for _, _, found in read_detections(run)]
    return sum(score > level for score in scores) if len(scores) == suspects else None


def _confirmed(run: Run) -> int | None:
    """Count the memorized prompts; None until all suspects are looked at, which is at once."""
    records = read_confirmations(run)
    return sum(record.confirmed for record in records.values()) if records else None
