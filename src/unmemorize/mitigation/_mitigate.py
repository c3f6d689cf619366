"""From suspects to one edit under which the copies are gone, with a certificate for each prompt.

RUN/detections.jsonl           the screen
RUN/before/, before.jsonl      unedited images of the suspects that pass it
RUN/confirmations.jsonl        their scores, and the level above which they are copies
RUN/localizations.jsonl        the neurons of those whose images show copies
RUN/starts.jsonl               what the detector says of the starts of these prompts
RUN/neighbours.jsonl           what it says of the ordinary captions that are most like them
RUN/rewordings.jsonl           what it says of these captions with a word of the prompt
RUN/guide-N.jsonl              images of those that it clears, the likest ones first
RUN/text-encoder-*.json        trained text encoders, by the digest of what they were trained with
RUN/denoiser-*.json            trained denoisers, likewise
RUN/text-encoder-*/            what is done of one that is being trained
RUN/denoiser-*/                likewise
RUN/denoiser-images.safetensors the images of the last one, as latents, for the next
RUN/search-EDIT/, .jsonl       images from the noise of those before, by the digest of the edit
RUN/after-EDIT/, .jsonl        those that the search left out, under the edit that is exported
RUN/certificate-N-EDIT.jsonl   fresh images of attempt N; those that are copies are kept
RUN/count-N-EDIT.jsonl         the same without a stop at the first copies, where it failed
RUN/paraphrases-EDIT/, .jsonl  images of other wordings; under the edit, copies are kept
RUN/control-EDIT/, .jsonl      images with as many random neurons edited
RUN/ordinary-*.jsonl           images of ordinary captions
RUN/edit.json                  the edit
RUN/model-files.json           hashes of the files that the model was loaded from
RUN/mitigation.json            the verdicts, see `MitigationResult`
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from diffusers import DiffusionPipeline

from unmemorize._errors import MitigationError
from unmemorize.engines import Execution
from unmemorize.generation import Edit, EditFile, has_closed_form
from unmemorize.localization import LocalizeTask, read_localizations
from unmemorize.metrics import have_references
from unmemorize.mitigation._certificate import (
    Attempt,
    Copies,
    Plan,
    fresh_seeds,
)
from unmemorize.mitigation._confirmation import (
    all_search_seeds,
    confirm,
    further_search_seeds,
    refuse_no_suspects,
    refuse_repeated_suspects,
    screen,
    screen_level,
    search_seeds,
    warn_of_few_captions,
    warn_of_missing_images,
)
from unmemorize.mitigation._guides import Guide, find_guides
from unmemorize.mitigation._images import ImagesRecord
from unmemorize.mitigation._ladders import Findings, Teach, ladder_names
from unmemorize.mitigation._outcomes import make_result
from unmemorize.mitigation._result import (
    EDIT,
    RESULT,
    CandidateSummary,
    MitigationResult,
)
from unmemorize.mitigation._run_settings import MitigationInputs, MitigationRun
from unmemorize.mitigation._search import (
    ATTEMPTS,
    Candidate,
    certify_joint,
    copy_rate,
    search,
    strengthened,
)
from unmemorize.mitigation._settings import MitigationSettings
from unmemorize.mitigation._stages import Announce, Stages, announced_by, digest
from unmemorize.mitigation._trained import (
    refuse_few_kept,
    refuse_other_part,
    taught,
    warn_of_no_fine_tuning,
)
from unmemorize.mitigation._work import CERTIFICATE, COUNT, SEARCH, Work, fresh_kind
from unmemorize.pipelines import Model
from unmemorize.runs import (
    Run,
    kinds_in,
    record_model_files,
    refuse_other_model,
    stream_prompts,
)


def mitigate_all(
    run: Run | str | Path,
    pipe: DiffusionPipeline | Model,
    inputs: MitigationInputs,
    *,
    attempts: int = ATTEMPTS,
    execution: Execution | None = None,
    announce: Announce | None = None,
) -> MitigationResult:
    """Find one edit for all suspects of a run, and certify it; or resume.

    Args:
        run: a run with suspects, opened with a `MitigationRun` of these inputs, or its folder.
        pipe: a loaded pipeline. It is left as it is.
        inputs: what to measure and compare with.
        attempts: how often all prompts may be certified, each time on a stronger edit. A later call
            with a higher number resumes; those that were made count in any case.
        execution: who does the work.
        announce: opens the progress of each stage by its title. By default all stages report to the
            callback of ``execution``, one after the other.

    Returns:
        The verdicts and the edit. Both are in the run folder, too; of several shards, the first one
        writes them.

    Raises:
        UnfinishedError: other shards have not done their part yet.
        RunError: an item fails, or the run is of another kind or of another model.
        MitigationError: the text encoder should be edited, and cannot be; no attempt is allowed;
            there are no suspects or too few ordinary captions; or two suspects have the same text.
        StatisticsError: the statistics belong to another model.
        ThresholdError: the threshold belongs to another model, or there are too few ordinary images
            for the rate of false copies.
    """
    run = Run.of(run)
    settings = run.settings(MitigationRun).settings
    model, execution = Model.of(pipe), execution or Execution()
    announce = announce or announced_by(execution)
    refuse_other_model(run, model)
    refuse_other_part(model, settings)
    warn_of_no_fine_tuning(model, settings)
    if attempts < 1:
        raise MitigationError(f"attempts={attempts}: prompts are certified at least once.")
    if not inputs.captions.ordinary:
        raise MitigationError(
            "no ordinary captions: the level of a copy rests on their images. Give some with "
            "OrdinaryCaptions(ordinary, keep)."
        )
    suspects = list(stream_prompts(run))
    refuse_no_suspects(suspects)
    refuse_few_kept(model, settings, inputs.captions, suspects)
    _localizing(settings, inputs).prepare(model)  # refuses what belongs to another model
    stages = Stages(run, model, settings, inputs.descriptor, inputs.clip, execution, announce)
    work, findings = prepare(stages, inputs)
    candidate, summaries = _best(work, findings)
    certified: dict[int, Attempt] = {}
    if candidate is not None:
        candidate, certified = _certify(work, candidate, findings, attempts)
    result = make_result(work, findings, candidate, summaries, certified)
    if candidate is not None:
        file = EditFile.of(stages.model, candidate.edit, found=result.in_words(settings))
        result = replace(result, file=file)
    if execution.is_first:  # which may already deliver them when another shard comes to its end
        record_model_files(run, model)
        _write(run, result)
    return result


def _write(run: Run, result: MitigationResult) -> None:
    """Write the edit and the verdicts."""
    if result.file is not None:
        # a run that is killed here has no verdicts, rather than those of another edit
        (run.folder / RESULT).unlink(missing_ok=True)
        result.file.save(run.folder / EDIT)
    run.write(RESULT, json.dumps(result.to_json(), indent=1) + "\n")


def prepare(stages: Stages, inputs: MitigationInputs) -> tuple[Work, dict[int, Findings]]:
    """Find out what must be known before an edit is searched.

    Args:
        stages: what all stages share.
        inputs: what to measure and compare with.

    Returns:
        What is known about all suspects, and what was localized for the confirmed ones, by index.

    Raises:
        UnmemorizeError: as in `mitigate_all`.
    """
    captions, threshold = inputs.captions, inputs.threshold
    warn_of_few_captions(captions.ordinary, stages.settings.false_copies)
    prompts = dict(enumerate(stream_prompts(stages.run)))
    refuse_repeated_suspects(prompts.values())
    warn_of_missing_images(prompts.values())
    images = stages.settings.ordinary_images
    before = stages.ordinary("ordinary", "ordinary-before", None, captions.ordinary, images)
    detections = screen(stages, prompts, threshold)
    level = screen_level(threshold)
    suspected = {
        index: prompts[index] for index, found in detections.items() if found.score > level
    }
    other = None
    if stages.compares_distributions or not have_references(suspected.values()):
        other = stages.ordinary(
            "ordinary, other noise",
            "ordinary-other",
            None,
            captions.ordinary,
            images,
            arm="other",
        )
    confirmations = confirm(stages, suspected, before, other) if suspected else {}
    memorized = [prompts[index] for index, found in confirmations.items() if found.confirmed]
    kept = captions.kept_but(memorized)
    work = Work(stages, kept, before, other, prompts, detections, confirmations)
    return work, _localize(stages, work, inputs) if work.confirmed else {}


def _localizing(settings: MitigationSettings, inputs: MitigationInputs) -> LocalizeTask:
    threshold = inputs.threshold.calling_all()
    return LocalizeTask(inputs.statistics, threshold, settings.localization)


def _localize(stages: Stages, work: Work, inputs: MitigationInputs) -> dict[int, Findings]:
    """Find the neurons of confirmed prompts, and what they may read like."""
    prompts, settings = work.confirmed, stages.settings.localization
    task = _localizing(stages.settings, inputs)
    stages.work("localize", task, [(index, (index, prompt)) for index, prompt in prompts.items()])
    guides: dict[int, Guide] = {}
    if has_closed_form(stages.model):
        guides = find_guides(
            stages, work.prompts, work.confirmations, work.captions.all_kept, inputs.threshold
        )
    return {
        index: Findings.of(
            stages.model, record, inputs.statistics, settings.layers, guides.get(index)
        )
        for index, record in read_localizations(stages.run).items()
        if index in prompts
    }


def _best(
    work: Work, findings: Mapping[int, Findings]
) -> tuple[Candidate | None, tuple[CandidateSummary, ...]]:
    """Search, and return the best edit.

    An edit within the budget is better than others, then one under which fewer prompts copy, then
    one that changes fewer ordinary images. One that ends all copies and changes few of them is
    taken at once.
    """

    def look(edit: Edit, indices: Sequence[int]) -> dict[int, float]:
        kind = f"{SEARCH}-{digest(edit)}"
        seeds = partial(search_seeds, work.stages)
        records = work.judged("search", kind, edit, indices, seeds, stop=2, keep="all")
        scores = {index: record.scores for index, record in records.items() if record.copies}
        single = [index for index in scores if records[index].copies == 1]
        if single:  # it may be a false copy, since the level lets some pass
            seeds = partial(further_search_seeds, work.stages)
            more = work.judged("search, again", f"{kind}-again", edit, single, seeds, stop=1)
            scores |= {index: scores[index] + found.scores for index, found in more.items()}
        levels = {index: work.confirmations[index].test.level for index in scores}
        rates = {index: copy_rate(some, levels[index]) for index, some in scores.items()}
        return {index: rate for index, rate in rates.items() if rate}

    if not findings:
        return None, ()
    settings = work.stages.settings
    ranked = []
    names, teach = ladder_names(settings.part), _teaching(work)
    for candidate in search(findings, work.captions.keep, look, ladders=names, teach=teach):
        change = work.change(candidate.edit, settings.sample, "side effects")
        summary = CandidateSummary(
            ladder=candidate.ladder,
            digest=digest(candidate.edit),
            copying=len(candidate.copying),
            change=change,
        )
        too_much = change.share > settings.budget
        order = (too_much, summary.copying, change.changed, -change.similarity)
        ranked.append((order, candidate, summary))
        if not settings.compare or (not summary.copying and change.share <= settings.few_changed):
            break
    ranked.sort(key=lambda entry: entry[0])
    summaries = tuple(summary for _, _, summary in ranked)
    return (ranked[0][1] if ranked else None), summaries


def _certify(
    work: Work, candidate: Candidate, findings: Mapping[int, Findings], allowed: int
) -> tuple[Candidate, dict[int, Attempt]]:
    """Certify all prompts on one edit, see `certify_joint`.

    An attempt ends at its second copy too many, or at the first one if it is the only attempt. For
    a prompt that failed, the copies among all of its seeds are counted, so that the verdict tells
    a rate. The edit is not strengthened beyond the budget.
    """
    stages, settings = work.stages, work.stages.settings

    def fresh(plan: Plan, text: str) -> tuple[int, ...]:
        searched = all_search_seeds(stages, text)
        return fresh_seeds(stages.model.fingerprint, text, plan.attempt, plan.seeds, searched)

    def count(edit: Edit, plan: Plan, indices: Sequence[int]) -> dict[int, Copies]:
        kind = fresh_kind(CERTIFICATE, plan.attempt, edit)
        title = f"certify, attempt {plan.attempt}"
        seeds = partial(fresh, plan)
        stop = plan.allowed + (1 if rules.single else 2)
        found = work.judged(title, kind, edit, indices, seeds, stop=stop, keep="copies")
        return _copies(found)

    def strengthen(weak: Candidate, failed: Collection[int]) -> Candidate | None:
        stronger = strengthened(weak, failed, findings, work.captions.keep, _teaching(work))
        if stronger is None:
            return None
        change = work.change(stronger.edit, settings.sample, "side effects")
        return stronger if change.share <= settings.budget else None

    rules = settings.certification(len(findings))
    allowed = max(allowed, *_attempts_on_record(stages.run))
    candidate, attempts = certify_joint(candidate, rules, count, strengthen, allowed)
    failed = [index for index, attempt in attempts.items() if not attempt.passed]
    for plan in dict.fromkeys(attempts[index].plan for index in failed):
        some = [index for index in failed if attempts[index].plan == plan]
        kind = fresh_kind(COUNT, plan.attempt, candidate.edit)
        seeds = partial(fresh, plan)
        found = work.judged("count copies", kind, candidate.edit, some, seeds, keep="copies")
        attempts |= {
            index: Attempt(plan, copies)
            for index, copies in _copies(found).items()
            if copies.copies > plan.allowed  # rounding may differ, and the certificate has failed
        }
    return candidate, attempts


def _attempts_on_record(run: Run) -> list[int]:
    kinds = (kind.split("-") for kind in kinds_in(run.folder))
    return [0, *(int(parts[1]) for parts in kinds if parts[0] == CERTIFICATE)]


def _teaching(work: Work) -> Teach:
    return partial(taught, work.stages, work.captions)


def _copies(records: Mapping[int, ImagesRecord]) -> dict[int, Copies]:
    return {index: Copies(record.copies, len(record.seeds)) for index, record in records.items()}
