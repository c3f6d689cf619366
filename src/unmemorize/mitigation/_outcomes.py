"""The outcome of each suspect, from everything that was generated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from statistics import median

from unmemorize.generation import Edit
from unmemorize.mitigation._certificate import Attempt, Copies, holm, verdict
from unmemorize.mitigation._confirmation import BEFORE, search_seeds
from unmemorize.mitigation._images import ImagesRecord
from unmemorize.mitigation._result import CandidateSummary, MitigationResult, PromptOutcome
from unmemorize.mitigation._search import Candidate
from unmemorize.mitigation._settings import MitigationSettings
from unmemorize.mitigation._stages import asked, digest
from unmemorize.mitigation._work import SEARCH, Work

_PARAPHRASE_SEEDS = 4
"""Images of each paraphrase."""


def make_result(
    work: Work,
    candidate: Candidate | None,
    summaries: Sequence[CandidateSummary],
    attempts: Mapping[int, Attempt],
) -> MitigationResult:
    """Generate what people look at, and put everything together."""
    stages = work.stages
    after: dict[int, ImagesRecord] = {}
    ordinary = None
    paraphrases_before = paraphrases_after = dict[int, Copies]()
    if candidate is not None:
        after = _after(work, candidate.edit, sorted(attempts))
        paraphrases_before = _paraphrases(work, None)
        paraphrases_after = _paraphrases(work, candidate.edit)
        count = stages.settings.ordinary_images
        ordinary = work.change(candidate.edit, count, "ordinary, edited")
    outcomes = tuple(
        replace(
            _outcome(work, index, candidate, attempts.get(index), after.get(index)),
            paraphrases_before=paraphrases_before.get(index),
            paraphrases_after=paraphrases_after.get(index),
        )
        for index in sorted(work.prompts)
    )
    return MitigationResult(
        outcomes=outcomes,
        ladder=candidate.ladder if candidate else "",
        edit=digest(candidate.edit) if candidate else "",
        ordinary=ordinary,
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
        whole |= work.judged("after", f"after-{digest(edit)}", edit, rest, seeds, keep=True)
    return whole


def _together(settings: MitigationSettings, attempts: Mapping[int, Attempt]) -> int | None:
    """Count the prompts that are certified all together, if that was asked for."""
    return sum(holm(list(attempts.values()))) if settings.together else None


def _paraphrases(work: Work, edit: Edit | None) -> dict[int, Copies]:
    """Count copies among images of the paraphrases of each confirmed prompt."""
    stages = work.stages
    pairs = [
        (index, text) for index, prompt in work.confirmed.items() for text in prompt.paraphrases
    ]
    if not pairs:
        return {}
    name = "before" if edit is None else "after"
    records = stages.images(
        f"paraphrases, {name}",
        f"paraphrases-{digest(edit)}" if edit else "paraphrases-before",
        edit,
        asked(
            {number: text for number, (_, text) in enumerate(pairs)},
            {number: work.confirmations[index].test for number, (index, _) in enumerate(pairs)},
            lambda text: search_seeds(stages, text)[:_PARAPHRASE_SEEDS],
        ),
    )
    counts: dict[int, Copies] = {}
    for number, (index, _) in enumerate(pairs):
        record = records[number]
        counted = Copies(record.copies, len(record.seeds))
        counts[index] = counts.get(index, Copies(0, 0)) + counted
    return counts


def _outcome(
    work: Work,
    index: int,
    candidate: Candidate | None,
    attempt: Attempt | None,
    after: ImagesRecord | None,
) -> PromptOutcome:
    prompt, detection = work.prompts[index], work.detections[index]
    confirmation = work.confirmations.get(index)
    if confirmation is None:
        judgement = verdict(None, None, confirmed=False)
        return PromptOutcome(
            index=index,
            prompt=prompt.text,
            group=prompt.group,
            status=judgement.status,
            verdict=str(judgement),
            score=detection.score,
        )
    before = work.stages.recorded(BEFORE).get(index)
    judgement = verdict(
        confirmation.copies,
        attempt,
        confirmed=confirmation.confirmed,
        confidence=work.stages.settings.confidence,
    )
    return PromptOutcome(
        index=index,
        prompt=prompt.text,
        group=prompt.group,
        status=judgement.status,
        verdict=str(judgement),
        score=detection.score,
        measure=confirmation.measure,
        level=confirmation.test.level,
        before=confirmation.copies,
        after=attempt.counted if attempt else None,
        worst_before=max(confirmation.scores),
        files_before=before.files if before else (),
        files_after=after.files if after else (),
        scores_after=after.scores if after else (),
        rung=str(candidate.rungs[index]) if candidate and attempt else "",
        alignment_before=median(before.alignment) if before and before.alignment else None,
        alignment_after=median(after.alignment) if after and after.alignment else None,
    )
