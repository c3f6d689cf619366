"""From suspects to one edit under which the copies are gone, with a certificate for each prompt.

RUN/detections.jsonl           the screen
RUN/before/, before.jsonl      unedited images of the suspects that pass it
RUN/localizations.jsonl        the neurons of those whose images show copies
RUN/search-EDIT/, .jsonl       images from the noise of those before, by the digest of the edit
RUN/after-EDIT/, .jsonl        those that the search left out, under the edit that is exported
RUN/certificate-N-EDIT.jsonl   fresh images of attempt N
RUN/ordinary-*.jsonl           images of ordinary captions
RUN/edit.json                  the edit
RUN/mitigation.json            the verdicts, see `MitigationResult`
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from statistics import median
from typing import ClassVar

from diffusers import DiffusionPipeline

from unmemorize._bundled import bundled_captions, is_bundled
from unmemorize._files import hash_texts
from unmemorize._prompts import Prompt
from unmemorize.detection import Detection, Threshold
from unmemorize.engines import Execution
from unmemorize.generation import Edit, EditFile
from unmemorize.localization import LOCALIZATIONS, Localization, LocalizeTask
from unmemorize.metrics import ClipAlignment, Descriptor, read_references
from unmemorize.mitigation._certificate import (
    Attempt,
    Certification,
    Copies,
    Plan,
    fresh_seeds,
    holm,
    verdict,
)
from unmemorize.mitigation._confirmation import (
    BEFORE,
    Confirmation,
    confirm,
    screen,
    screen_level,
    search_seeds,
)
from unmemorize.mitigation._images import ImagesRecord
from unmemorize.mitigation._ladders import Findings
from unmemorize.mitigation._ordinary import OrdinaryChange, OrdinaryImages, ordinary_change
from unmemorize.mitigation._result import (
    EDIT,
    RESULT,
    CandidateSummary,
    MitigationResult,
    PromptOutcome,
)
from unmemorize.mitigation._search import Candidate, certify_joint, search, strengthened
from unmemorize.mitigation._settings import MitigationSettings
from unmemorize.mitigation._stages import Announce, Stages, asked, digest, unannounced
from unmemorize.pipelines import Model
from unmemorize.runs import Run, stream_prompts
from unmemorize.statistics import Statistics, side_effect_captions, threshold_captions

SEARCH = "search"
"""How records of the search begin. What follows is the digest of the edit."""
_KEPT = 320
"""Ordinary captions that closed-form edits leave alone."""
_PARAPHRASE_SEEDS = 4
"""Images of each paraphrase."""


@dataclass(frozen=True, kw_only=True)
class MitigationRun:
    """What determines a mitigation, besides the model and the prompts.

    Args:
        settings: see `MitigationSettings`.
        tau: the score above which a suspect is looked at.
        threshold_prompts, statistics_prompts: hashes of the captions of threshold and statistics.
        captions: a hash of the ordinary captions.
        descriptor, clip: hashes of the networks that measure; empty without a CLIP.
    """

    kind: ClassVar[str] = "mitigation"

    settings: MitigationSettings
    tau: float
    threshold_prompts: str
    statistics_prompts: str
    captions: str
    descriptor: str
    clip: str

    @classmethod
    def of(
        cls,
        settings: MitigationSettings,
        threshold: Threshold,
        statistics: Statistics,
        captions: OrdinaryCaptions,
        descriptor: Descriptor,
        clip: ClipAlignment | None,
    ) -> MitigationRun:
        """Make the settings of a run from what it uses."""
        return cls(
            settings=settings,
            tau=screen_level(threshold),
            threshold_prompts=threshold.prompts,
            statistics_prompts=statistics.prompts,
            captions=hash_texts([*captions.ordinary, "", *captions.keep]),
            descriptor=descriptor.digest,
            clip=clip.digest if clip else "",
        )


@dataclass(frozen=True)
class OrdinaryCaptions:
    """Ordinary captions, none of them memorized.

    Args:
        ordinary: for the level of copies, and for what an edit changes.
        keep: others, which closed-form edits leave alone.
    """

    ordinary: tuple[str, ...]
    keep: tuple[str, ...]

    @classmethod
    def of(cls, model: Model) -> OrdinaryCaptions:
        """Return the captions of this package, or those that the bundled model brings."""
        if is_bundled(model.pipe):
            return cls(bundled_captions("test"), bundled_captions("calibration")[:_KEPT])
        return cls(side_effect_captions(model), threshold_captions(model)[:_KEPT])


def mitigate_all(
    run: Run,
    pipe: DiffusionPipeline | Model,
    *,
    statistics: Statistics,
    threshold: Threshold,
    captions: OrdinaryCaptions,
    descriptor: Descriptor,
    clip: ClipAlignment | None = None,
    execution: Execution | None = None,
    announce: Announce = unannounced,
) -> MitigationResult:
    """Find one edit for all suspects of a run, and certify it; or resume.

    Args:
        run: a run with suspects, opened with a `MitigationRun` of these inputs.
        pipe: a loaded pipeline. It is left as it is.
        statistics: of all value layers of the model.
        threshold: of the model. Every suspect whose score is above its level for localization is
            generated. A low level costs nothing but images, since these clear a suspect.
        captions: ordinary captions.
        descriptor: tells copies.
        clip: measures the alignment of images with their prompts.
        execution: who does the work.
        announce: opens the progress of each stage by its title.

    Returns:
        The verdicts and the edit. Both are in the run folder, too.

    Raises:
        UnfinishedError: other shards have not done their part yet.
        RunError: an item fails, or the run is of another kind.
        ThresholdError: there are too few ordinary images for the rate of false copies.
    """
    settings = run.settings(MitigationRun).settings
    model, execution = Model.of(pipe), execution or Execution()
    stages = Stages(run, model, settings, descriptor, clip, execution, announce)
    prompts = dict(enumerate(stream_prompts(stages.run)))
    images = stages.settings.ordinary_images
    before = stages.ordinary("ordinary", "ordinary-before", None, captions.ordinary, images)
    detections = screen(stages, prompts, threshold)
    level = screen_level(threshold)
    suspected = {
        index: prompts[index] for index, found in detections.items() if found.score > level
    }
    other = None
    has_references = (read_references(prompt.images).images for prompt in suspected.values())
    if stages.settings.distances or not all(has_references):
        other = stages.ordinary(
            "ordinary, other noise",
            "ordinary-other",
            None,
            captions.ordinary,
            images,
            arm="other",
        )
    confirmations = confirm(stages, suspected, before, other) if suspected else {}
    work = _Work(stages, captions, before, other, prompts, detections, confirmations)
    findings = _localize(stages, work.confirmed, statistics, threshold)
    candidate, summaries = _best(work, findings)
    attempts: dict[int, Attempt] = {}
    if candidate is not None:
        candidate, attempts = _certify(work, candidate, findings)
    result = _result(work, candidate, summaries, attempts)
    if candidate is not None:
        found = {"prompts": result.confirmed, "removed": result.count("removed")}
        file = EditFile.of(stages.model, candidate.edit, found=found)
        file.save(stages.run.folder / EDIT)
        result = replace(result, file=file)
    stages.run.write(RESULT, json.dumps(result.to_json(), indent=1) + "\n")
    return result


@dataclass(frozen=True)
class _Work:
    """What is known before an edit is searched."""

    stages: Stages
    captions: OrdinaryCaptions
    before: OrdinaryImages
    other: OrdinaryImages | None
    prompts: Mapping[int, Prompt]
    detections: Mapping[int, Detection]
    confirmations: Mapping[int, Confirmation]

    @property
    def confirmed(self) -> dict[int, Prompt]:
        """The memorized prompts by index."""
        return {
            index: self.prompts[index]
            for index, confirmation in self.confirmations.items()
            if confirmation.confirmed
        }

    def judged(
        self,
        title: str,
        kind: str,
        edit: Edit,
        indices: Sequence[int],
        seeds: Callable[[str], tuple[int, ...]],
        *,
        stop: int | None = None,
        keep: bool = False,
    ) -> dict[int, ImagesRecord]:
        """Generate images of confirmed prompts under an edit and look for copies."""
        texts = {index: self.prompts[index].text for index in indices}
        tests = {index: self.confirmations[index].test for index in indices}
        wanted = asked(texts, tests, seeds)
        return self.stages.images(title, kind, edit, wanted, stop=stop, keep=keep)

    def change(self, edit: Edit, images: int, title: str) -> OrdinaryChange:
        """Measure what an edit changes in images of ordinary captions."""
        after = self.stages.ordinary(
            title,
            f"ordinary-{digest(edit)}",
            edit,
            self.captions.ordinary,
            images,
        )
        other = self.other if self.stages.settings.distances else None
        return ordinary_change(self.stages.run, self.before, after, other)


def _localize(
    stages: Stages,
    prompts: Mapping[int, Prompt],
    statistics: Statistics,
    threshold: Threshold,
) -> dict[int, Findings]:
    """Find the neurons of confirmed prompts."""
    settings = stages.settings.localization
    task = LocalizeTask(statistics, threshold, settings)
    stages.work("localize", task, [(index, (index, prompt)) for index, prompt in prompts.items()])
    records = stages.run.records(LOCALIZATIONS)
    return {
        index: Findings.of(
            stages.model, Localization.from_json(records[index]), statistics, settings.layers
        )
        for index in prompts
    }


def _best(
    work: _Work, findings: Mapping[int, Findings]
) -> tuple[Candidate | None, tuple[CandidateSummary, ...]]:
    """Search, and return the edit that leaves the fewest copies and changes the fewest images."""

    def look(edit: Edit, indices: Sequence[int]) -> list[int]:
        kind = f"{SEARCH}-{digest(edit)}"
        seeds = partial(search_seeds, work.stages)
        records = work.judged("search", kind, edit, indices, seeds, stop=1, keep=True)
        return [index for index, record in records.items() if record.copies]

    if not findings:
        return None, ()
    settings = work.stages.settings
    ranked = []
    for candidate in search(findings, work.captions.keep, look):
        change = work.change(candidate.edit, settings.sample, "side effects")
        summary = CandidateSummary(
            ladder=candidate.ladder,
            digest=digest(candidate.edit),
            copying=len(candidate.copying),
            change=change,
        )
        ranked.append((summary.copying, change.changed, -change.similarity, candidate, summary))
        good_enough = not candidate.copying and change.share <= settings.budget
        if good_enough and not settings.compare:
            break
    ranked.sort(key=lambda entry: entry[:3])
    summaries = tuple(entry[4] for entry in ranked)
    return (ranked[0][3] if ranked else None), summaries


def _certify(
    work: _Work, candidate: Candidate, findings: Mapping[int, Findings]
) -> tuple[Candidate, dict[int, Attempt]]:
    """Certify all prompts on one edit, see `certify_joint`.

    An attempt ends at its first copy too many. For a prompt that failed the last one, the copies
    among all of its seeds are counted, so that the verdict tells a rate.
    """
    stages, settings = work.stages, work.stages.settings

    def fresh(attempt: int, seeds: int, text: str) -> tuple[int, ...]:
        searched = search_seeds(stages, text)
        return fresh_seeds(stages.model.fingerprint, text, attempt, seeds, searched)

    def count(edit: Edit, plan: Plan, attempt: int) -> dict[int, Copies]:
        kind = f"certificate-{attempt}-{digest(edit)}"
        title = f"certify, attempt {attempt}"
        seeds = partial(fresh, attempt, plan.seeds)
        stop = plan.allowed + 1
        return _copies(work.judged(title, kind, edit, sorted(findings), seeds, stop=stop))

    def strengthen(weak: Candidate, failed: Collection[int]) -> Candidate | None:
        return strengthened(weak, failed, findings, work.captions.keep)

    together = len(findings) if settings.together else 1
    rules = Certification(
        settings.alpha, 1 - settings.confidence, settings.declared, prompts=together
    )
    candidate, attempts = certify_joint(candidate, rules, count, strengthen)
    failed = [index for index, attempt in attempts.items() if not attempt.passed]
    if failed:
        plan = attempts[failed[0]].plan
        number = 1 if plan.share == 1 else round(-math.log2(plan.share))
        seeds = partial(fresh, number, plan.seeds)
        kind = f"count-{number}-{digest(candidate.edit)}"
        copies = _copies(work.judged("count copies", kind, candidate.edit, failed, seeds))
        attempts |= {index: Attempt(plan, copies[index]) for index in failed}
    return candidate, attempts


def _copies(records: Mapping[int, ImagesRecord]) -> dict[int, Copies]:
    return {index: Copies(record.copies, len(record.seeds)) for index, record in records.items()}


def _result(
    work: _Work,
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


def _after(work: _Work, edit: Edit, indices: Sequence[int]) -> dict[int, ImagesRecord]:
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


def _paraphrases(work: _Work, edit: Edit | None) -> dict[int, Copies]:
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
        f"paraphrases-{name}",
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
    work: _Work,
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
