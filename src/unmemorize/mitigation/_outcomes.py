"""The outcome of each suspect, from everything that was generated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import median

from unmemorize.generation import Edit
from unmemorize.mitigation._certificate import Attempt, Copies, holm, verdict
from unmemorize.mitigation._confirmation import BEFORE, search_seeds
from unmemorize.mitigation._control import control_edit
from unmemorize.mitigation._images import ImagesRecord
from unmemorize.mitigation._ladders import Findings
from unmemorize.mitigation._paraphrases import Paraphrase, draw_paraphrases, read_paraphrases
from unmemorize.mitigation._result import CandidateSummary, MitigationResult, PromptOutcome
from unmemorize.mitigation._search import Candidate
from unmemorize.mitigation._settings import MitigationSettings
from unmemorize.mitigation._stages import digest
from unmemorize.mitigation._work import CERTIFICATE, COUNT, SEARCH, Work, fresh_kind

CONTROL_SEEDS = 4
"""Images of each prompt with random neurons edited, where neurons were edited for it."""


def make_result(
    work: Work,
    findings: Mapping[int, Findings],
    candidate: Candidate | None,
    summaries: Sequence[CandidateSummary],
    attempts: Mapping[int, Attempt],
) -> MitigationResult:
    """Generate what people look at, and put everything together."""
    stages = work.stages
    after: dict[int, ImagesRecord] = {}
    fresh: dict[int, ImagesRecord] = {}
    first: dict[int, Copies] = {}
    controls: dict[int, ImagesRecord] = {}
    ordinary = ordinary_control = None
    paraphrases: Mapping[int, tuple[Paraphrase, ...]] = {}
    if candidate is not None:
        after = _after(work, candidate.edit, sorted(attempts))
        fresh = _fresh(work, candidate.edit, attempts)
        first = _first(work, candidate.edit, attempts)
        draw_paraphrases(work, candidate.edit)
        levels = {index: work.confirmations[index].test.level for index in work.confirmed}
        paraphrases = read_paraphrases(stages.run, digest(candidate.edit), levels)
        count = stages.settings.ordinary_images
        ordinary = work.change(candidate.edit, count, "ordinary, edited")
        control = control_edit(candidate.edit, stages.model)
        if control is not None:
            indices = [index for index in sorted(attempts) if candidate.rungs[index].scales_neurons]
            controls = _controls(work, control, indices)
            ordinary_control = work.change(control, stages.settings.sample, "ordinary, control")
    before = stages.recorded(BEFORE) if work.confirmations else {}
    outcomes = []
    for index in sorted(work.prompts):
        outcome = _judged(work, index, attempts.get(index))
        if index in work.confirmations:
            outcome = _with_images(outcome, before[index], after.get(index), controls.get(index))
        if candidate is not None and index in attempts:
            outcome = replace(outcome, rung=candidate.rungs[index].named(findings[index].guide))
            outcome = _with_copies_left(replace(outcome, first=first[index]), fresh[index])
        outcomes.append(outcome.with_paraphrases(paraphrases.get(index, ())))
    return MitigationResult(
        outcomes=tuple(outcomes),
        ladder=candidate.ladder if candidate else "",
        edit=digest(candidate.edit) if candidate else "",
        ordinary=ordinary,
        ordinary_control=ordinary_control,
        budget=stages.settings.budget,
        together=_together(stages.settings, attempts),
        candidates=tuple(summaries),
    )


def _after(work: Work, edit: Edit, indices: Sequence[int]) -> dict[int, ImagesRecord]:
    """Generate images from the noise of those before, as far as the search has not done so."""
    stages = work.stages
    searched = stages.recorded(f"{SEARCH}-{digest(edit)}")
    whole = {
        index: searched[index]
        for index in indices
        if index in searched and len(searched[index].seeds) == stages.settings.search_images
    }
    rest = [index for index in indices if index not in whole]
    if rest:
        seeds = partial(search_seeds, stages)
        whole |= work.judged("after", f"after-{digest(edit)}", edit, rest, seeds, keep="all")
    return whole


def _fresh(work: Work, edit: Edit, attempts: Mapping[int, Attempt]) -> dict[int, ImagesRecord]:
    """Return the fresh images that the verdict of each prompt counts."""
    kinds = {
        index: fresh_kind(CERTIFICATE if attempt.passed else COUNT, attempt.plan.attempt, edit)
        for index, attempt in attempts.items()
    }
    records = {kind: work.stages.recorded(kind) for kind in set(kinds.values())}
    return {index: records[kind][index] for index, kind in kinds.items()}


def _first(work: Work, edit: Edit, attempts: Mapping[int, Attempt]) -> dict[int, Copies]:
    """Count the copies among the first fresh images of each prompt under the edit.

    All of them were drawn: a prompt is tested again only after a single copy too many, before which
    no attempt ends. Of one that failed for good, they were counted afterwards.
    """
    found: dict[int, ImagesRecord] = {}
    plans = {attempt.plan.attempt for attempt in attempts.values()}
    for number in range(max(plans, default=0), 0, -1):
        for stage in (CERTIFICATE, COUNT):
            found |= work.stages.recorded(fresh_kind(stage, number, edit))
    return {index: Copies(found[index].copies, len(found[index].seeds)) for index in attempts}


def _controls(work: Work, control: Edit, indices: Sequence[int]) -> dict[int, ImagesRecord]:
    """Generate images with random neurons off, from the noise of the first images before."""

    def seeds(text: str) -> tuple[int, ...]:
        return search_seeds(work.stages, text)[:CONTROL_SEEDS]

    kind = f"control-{digest(control)}"
    return work.judged("random neurons", kind, control, indices, seeds, keep="all")


def _together(settings: MitigationSettings, attempts: Mapping[int, Attempt]) -> int | None:
    """Count the prompts that are certified all together, if that was asked for."""
    return sum(holm(list(attempts.values()))) if settings.together else None


def _judged(work: Work, index: int, attempt: Attempt | None) -> PromptOutcome:
    """Judge a suspect by what was counted."""
    prompt, confirmation = work.prompts[index], work.confirmations.get(index)
    judgement = verdict(
        confirmation.copies if confirmation else None,
        attempt,
        confirmed=confirmation is not None and confirmation.confirmed,
        confidence=work.stages.settings.confidence,
    )
    outcome = PromptOutcome(
        index=index,
        prompt=prompt.text,
        group=prompt.group,
        status=judgement.status,
        verdict=str(judgement),
        score=work.detections[index].score,
        after=judgement.counted,
        bound=judgement.bound,
        confidence=judgement.plan.confidence if judgement.plan else None,
    )
    if confirmation is None:
        return outcome
    return replace(
        outcome,
        measure=confirmation.measure,
        level=confirmation.test.level,
        before=confirmation.copies,
        worst_before=max(confirmation.counted),
    )


def _with_images(
    outcome: PromptOutcome,
    before: ImagesRecord,
    after: ImagesRecord | None,
    control: ImagesRecord | None,
) -> PromptOutcome:
    """Add the images of a suspect, and their alignment."""
    outcome = replace(
        outcome,
        files_before=before.files,
        alignment_before=median(before.alignment) if before.alignment else None,
    )
    if control is not None:
        outcome = replace(outcome, files_control=control.files, scores_control=control.scores)
    if after is None:
        return outcome
    return replace(
        outcome,
        files_after=after.files,
        scores_after=after.scores,
        alignment_after=median(after.alignment) if after.alignment else None,
    )


def _with_copies_left(outcome: PromptOutcome, fresh: ImagesRecord) -> PromptOutcome:
    """Add the fresh images that are copies, the worst first."""
    assert outcome.level is not None  # a prompt with a verdict on fresh images was confirmed
    scores = [score for score in fresh.scores if score > outcome.level]
    worst = sorted(zip(scores, fresh.files, strict=True), reverse=True)
    return replace(
        outcome,
        files_left=tuple(file for _, file in worst),
        scores_left=tuple(score for score, _ in worst),
    )
