"""Detectors and methods, side by side on one model, in a run folder.

RUN/detector-NAME-DIGEST.jsonl     scores of one detector
RUN/before/, before.jsonl          unedited images of the suspects
RUN/ordinary-before.jsonl          unedited images of ordinary captions
RUN/ordinary-other.jsonl           the same from other noise
RUN/localizations-*.jsonl          neurons, for methods that need them
RUN/method-NAME-DIGEST.jsonl       what one method at one strength does, see `DrawnRecord`
RUN/comparison.json, .csv          the tables, see `Comparison`
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from diffusers import DiffusionPipeline
from torch import Tensor

from unmemorize._errors import MitigationError, RunError, UnfinishedError
from unmemorize._prompts import Prompt
from unmemorize.comparison._detectors import DetectorRow, detector_row
from unmemorize.comparison._drawn import UNEDITED, Drawn, DrawTask, read_drawn, spread_captions
from unmemorize.comparison._methods import MethodRow, method_rows
from unmemorize.comparison._once import Once
from unmemorize.comparison._result import RESULT, TABLE, Comparison
from unmemorize.comparison._scores import ScoreTask, read_scores
from unmemorize.comparison._settings import ComparisonInputs, ComparisonRun, kind_of
from unmemorize.detection import Detector
from unmemorize.engines import Execution, Task
from unmemorize.localization import (
    Localization,
    LocalizationSettings,
    LocalizeTask,
    RefinementMethod,
)
from unmemorize.methods import Mitigation, refinement_of
from unmemorize.metrics import have_references
from unmemorize.mitigation import (
    BEFORE,
    SAME,
    Announce,
    Confirmation,
    Stages,
    announced_by,
    confirm,
    ordinary_items,
    refuse_no_suspects,
    refuse_repeated_suspects,
    warn_of_few_captions,
)
from unmemorize.pipelines import Model
from unmemorize.runs import Run, refuse_other_model, stream_prompts


def compare_all(
    run: Run | str | Path,
    pipe: DiffusionPipeline | Model,
    inputs: ComparisonInputs,
    *,
    detectors: Sequence[Detector] = (),
    methods: Sequence[Mitigation] = (),
    execution: Execution | None = None,
    announce: Announce | None = None,
) -> Comparison:
    """Compare detectors and methods on the suspects of a run; or resume.

    What does not work on the model is part of the result, with its reason. The files of the result
    are in the run folder, too.

    Args:
        run: a run with suspects, opened with a `ComparisonRun` of these inputs, or its folder. All
            of them count as memorized for detectors. Methods work on those whose unedited images
            copy.
        pipe: a loaded pipeline. It is left as it is.
        inputs: what to measure and compare with.
        detectors: see `unmemorize.comparison.chosen_detectors`.
        methods: each at one strength, see `unmemorize.comparison.chosen_methods`.
        execution: who does the work.
        announce: opens the progress of each stage by its title. By default all stages report to the
            callback of ``execution``, one after the other.

    Raises:
        MitigationError: there is no suspect; one is known not to be memorized, or is an ordinary
            caption, too; two have the same text; a method has the name of the unedited model; or
            statistics or threshold are missing.
        UnfinishedError: other shards have not done their part yet.
        RunError: unedited images cannot be made, or the run is of another kind or model.
        StatisticsError: the statistics belong to another model.
        ThresholdError: the threshold belongs to another model, or there are too few ordinary images
            for the rate of false copies.
    """
    run = Run.of(run)
    settings = run.settings(ComparisonRun).settings
    model, execution = Model.of(pipe), execution or Execution()
    refuse_other_model(run, model)
    announce = announce or announced_by(execution)
    _refuse_unfit(model, methods, settings.localization, inputs)
    inputs = replace(inputs, descriptor=Once(inputs.descriptor))
    stages = _Stages(
        run, model, settings.confirmation, inputs.descriptor, inputs.clip, execution, announce
    )
    suspects = list(stream_prompts(run))
    refuse_no_suspects(suspects)
    refuse_repeated_suspects(suspects)
    ordinary = {*inputs.captions.calibration, *inputs.captions.test}
    for suspect in suspects:
        if suspect.memorized is False:
            raise MitigationError(
                f"{suspect.text[:60]!r}: among the suspects, but its group says that it is not "
                "memorized. Give it as an ordinary caption."
            )
        if suspect.text in ordinary:
            raise MitigationError(
                f"{suspect.text[:60]!r}: among the suspects and among the ordinary captions. Leave "
                "it out of one of them."
            )
    work = _Work(stages, inputs, suspects)
    found = [row for detector in detectors if (row := work.detector(detector))]
    rows: list[MethodRow] = []
    confirmed = None
    if methods:
        rows, confirmed = work.methods(methods)
    if work.unfinished:
        raise UnfinishedError(work.unfinished[0])
    comparison = Comparison(
        model=model.name,
        planted=inputs.planted,
        suspects=len(suspects),
        confirmed=confirmed,
        detectors=tuple(found),
        methods=tuple(rows),
        failed=work.failed,
    )
    run.write(RESULT, json.dumps(comparison.to_json(), indent=1) + "\n")
    run.write(TABLE, comparison.to_csv())
    return comparison


class _Stages(Stages):
    """Stages of which the first one that has something to do deletes the tables of before.

    The same folder takes further methods later. Until they are done, the run is not finished.
    """

    def work(self, title: str, task: Task, items: Sequence[tuple[int, Any]]) -> None:
        """See `Stages`."""
        indices = [index for index, _ in items]
        finished = self.run.done(task.kind, 1 + max(indices, default=-1))
        if not all(finished[index] for index in indices):
            for name in (RESULT, TABLE):
                (self.run.folder / name).unlink(missing_ok=True)
        super().work(title, task, items)


@dataclass(frozen=True)
class _Work:
    """The work of a comparison, and what stopped parts of it.

    Args:
        stages: what all stages share.
        inputs: what to measure and compare with.
        suspects: the prompts.
        failed: see `Comparison`.
        unfinished: what other shards have left.
    """

    stages: Stages
    inputs: ComparisonInputs
    suspects: Sequence[Prompt]
    failed: dict[str, str] = field(default_factory=dict)
    unfinished: list[str] = field(default_factory=list)

    def detector(self, detector: Detector) -> DetectorRow | None:
        """Score all prompts by a detector, and sum up; None where scores are missing."""
        captions = self.inputs.captions
        settings = self.stages.run.settings(ComparisonRun).settings
        task = ScoreTask(detector, settings.noise, settings.generation.batch)
        texts = [suspect.text for suspect in self.suspects]
        texts += [*captions.calibration, *captions.test]
        if not self._finished(detector.name, task, list(enumerate(texts))):
            return None
        records = read_scores(self.stages.run, task.kind)
        return detector_row(detector, self.suspects, records, len(captions.calibration))

    def methods(self, methods: Sequence[Mitigation]) -> tuple[list[MethodRow], int]:
        """Draw under all methods; return their rows and how many suspects are confirmed."""
        settings = self.stages.run.settings(ComparisonRun).settings
        captions, images = self.inputs.captions.test, settings.images
        warn_of_few_captions(captions, settings.false_copies, settings.captions)
        before = self.stages.ordinary(
            "ordinary", "ordinary-before", None, captions, settings.null_images
        )
        has_references = have_references(self.suspects)
        other = None
        if self.inputs.clip or not has_references:
            other = self.stages.ordinary(
                "ordinary, other noise",
                "ordinary-other",
                None,
                captions,
                images if has_references else settings.null_images,
                arm="other",
            )
        confirmations = confirm(
            self.stages,
            dict(enumerate(self.suspects)),
            before,
            None if has_references else other,
        )
        confirmed = {
            index: self.suspects[index]
            for index, confirmation in confirmations.items()
            if confirmation.confirmed
        }
        features = other.features[:images] if other and self.inputs.clip else None
        items = self._drawn(confirmed, confirmations, before.embeddings[:images])
        return self._rows(methods, confirmed, items, features), len(confirmed)

    def _rows(
        self,
        methods: Sequence[Mitigation],
        confirmed: Mapping[int, Prompt],
        items: Mapping[int, Drawn],
        features: Tensor | None,
    ) -> list[MethodRow]:
        """Draw under the unedited model and all methods, and sum up what is finished."""
        if not confirmed:
            return []
        localized = {
            refinement: self._localized(refinement, confirmed)
            for refinement in dict.fromkeys(map(refinement_of, methods))
            if refinement
        }
        tasks = []
        for method in (None, *methods):
            found = localized.get(refinement_of(method))
            if found is not None and len(found) < len(confirmed):
                continue  # some localizations fail, or are left to other shards
            task = self._draw(
                method,
                {
                    index: replace(item, localization=(found or {}).get(index))
                    for index, item in items.items()
                },
            )
            if task:
                tasks.append(task)
        if self.unfinished or not tasks or tasks[0].method is not None:
            return []
        records = [read_drawn(self.stages.run, task.kind) for task in tasks]
        return [
            row for each in records for row in method_rows(confirmed, each, records[0], features)
        ]

    def _drawn(
        self,
        confirmed: Mapping[int, Prompt],
        confirmations: Mapping[int, Confirmation],
        before: Tensor,
    ) -> dict[int, Drawn]:
        """Say what is drawn for each confirmed suspect."""
        run, records = self.stages.run, self.stages.recorded(BEFORE)
        items = ordinary_items(self.inputs.captions.test, len(before), SAME)
        drawn = {}
        for place, (index, prompt) in enumerate(confirmed.items()):
            captions, seeds, rows = spread_captions(items, before, len(confirmed), place)
            drawn[index] = Drawn(
                prompt=prompt,
                seeds=records[index].seeds,
                originals=tuple(run.folder / file for file in records[index].files),
                test=confirmations[index].test,
                captions=captions,
                caption_seeds=seeds,
                before=rows,
            )
        return drawn

    def _draw(self, method: Mitigation | None, items: Mapping[int, Drawn]) -> DrawTask | None:
        """Draw under a method; return the task, or None where records are missing."""
        stages = self.stages
        task = DrawTask(
            method=method,
            kept=self.inputs.captions.kept,
            settings=stages.settings.generation,
            descriptor=self.inputs.descriptor,
            clip=self.inputs.clip,
            localized_by=self._localized_by,
        )
        title = f"{task.name} {task.strength:g}" if method else "unedited"
        return task if self._finished(title, task, list(items.items())) else None

    @property
    def _localized_by(self) -> str:
        """What determines localizations, besides the run and the refinement."""
        statistics, threshold = self.inputs.statistics, self.inputs.threshold
        if statistics is None or threshold is None:
            return ""
        return f"{statistics.prompts} {threshold.prompts} {threshold.localize.tau}"

    def _localized(self, refinement: str, prompts: Mapping[int, Prompt]) -> dict[int, Localization]:
        """Localize confirmed suspects, as far as possible."""
        settings = self.stages.run.settings(ComparisonRun).settings.localization
        kind = kind_of("localizations", refinement, self._localized_by)
        task = _localizing(refinement, settings, self.inputs, kind)
        self._finished(
            f"localize, {refinement}",
            task,
            [(index, (index, each)) for index, each in prompts.items()],
        )
        records = self.stages.run.stream(kind)
        return {index: Localization.from_json(record) for index, record in records}

    def _finished(self, title: str, task: Task, items: Sequence[tuple[int, Any]]) -> bool:
        """Do a stage. Note what fails or is left to other shards, so the rest can go on."""
        try:
            self.stages.work(title, task, items)
        except UnfinishedError as problem:
            self.unfinished.append(str(problem))
            return False
        except RunError:
            failures = self.stages.run.failures(task.kind)
            if not failures:
                raise
            self.failed[title] = next(iter(failures.values()))
            return False
        return True


def _localizing(
    refinement: str, settings: LocalizationSettings, inputs: ComparisonInputs, kind: str
) -> LocalizeTask:
    statistics, threshold = inputs.statistics, inputs.threshold
    assert statistics is not None  # see `_refuse_unfit`
    assert threshold is not None
    chosen = cast("RefinementMethod", refinement)
    settings = replace(settings, noise=threshold.settings, refinement=chosen)
    return LocalizeTask(statistics, threshold.calling_all(), settings, kind)


def _refuse_unfit(
    model: Model,
    methods: Sequence[Mitigation],
    settings: LocalizationSettings,
    inputs: ComparisonInputs,
) -> None:
    for method in methods:
        if method.name == UNEDITED:
            raise MitigationError(
                f"{method.name}: tables call the unedited model so. Give the method another name."
            )
        refinement = refinement_of(method)
        if refinement and (inputs.statistics is None or inputs.threshold is None):
            raise MitigationError(
                f"{method.name}: it needs localized neurons, but statistics or threshold are "
                "missing. Give both with the inputs, or leave the method out."
            )
        if refinement:  # statistics and threshold may belong to another model
            _localizing(refinement, settings, inputs, "").prepare(model)
