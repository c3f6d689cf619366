"""Every number of the report of a mitigation, for people and for programs.

``report.json`` holds `Numbers`, and ``report.csv`` a line for each suspect. The page shows the same
values and names the place of each one in ``report.json``, so `verify_evidence` can compare them.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from unmemorize._csv_files import CsvWriter
from unmemorize._files import to_json
from unmemorize.mitigation import Copies, OrdinaryChange, PromptOutcome, pooled
from unmemorize.report._evidence import Evidence
from unmemorize.report._rates import Rate
from unmemorize.report._statement import Statement

NUMBERS = "report.json"
TABLE = "report.csv"
SCHEMA = "unmemorize.report/5"
STATUSES = ("removed", "reduced", "not removed", "not confirmed", "not tested")


@dataclass(frozen=True, kw_only=True)
class PromptNumbers:
    """The numbers of one suspect. They are None where nothing was measured.

    Args:
        index: its position in the run.
        prompt, group: the prompt.
        status, verdict: see `PromptOutcome`.
        score: of the screen.
        measure, level: what tells copies, and the score above which an image is one.
        before, after, control: copies among the unedited images, among fresh ones of the last
            certificate, and among those with random neurons edited.
        worst_before, worst_after: the highest score of an unedited image, and of an edited one
            from the same noise.
        reproduced_before, reproduced_after, reproduced_ordinary: the largest share of a training
            image that an unedited image shows again, that an edited one from the same noise does,
            and that an image of an ordinary caption does, see `Reproduced`.
        alignment_before, alignment_after: median cosines of images with the prompt.
        paraphrases_before, paraphrases_after: copies among images of its paraphrases.
        rung: how the prompt is edited.
        neurons: how many neurons localization found.
    """

    index: int
    prompt: str
    group: str
    status: str
    verdict: str
    score: float
    measure: str | None
    level: float | None
    before: Rate | None
    after: Rate | None
    control: Rate | None
    worst_before: float | None
    worst_after: float | None
    reproduced_before: float | None
    reproduced_after: float | None
    reproduced_ordinary: float | None
    alignment_before: float | None
    alignment_after: float | None
    paraphrases_before: Rate | None
    paraphrases_after: Rate | None
    rung: str
    neurons: int | None


@dataclass(frozen=True, kw_only=True)
class ParaphraseNumbers:
    """The numbers of another wording of a memorized prompt.

    Args:
        text: the wording.
        before, after: copies among its images without the edit and with it.
    """

    text: str
    before: Rate | None
    after: Rate | None


@dataclass(frozen=True, kw_only=True)
class CopyingNumbers:
    """How many memorized prompts the edit leaves with copies.

    Args:
        any: with a copy among fresh images or those of paraphrases.
        fresh: with a copy among their fresh images, also those of an earlier attempt.
        paraphrases: with a copy among the images of their paraphrases.
    """

    any: int
    fresh: int
    paraphrases: int

    @classmethod
    def of(cls, outcomes: Sequence[PromptOutcome]) -> CopyingNumbers:
        """Count the prompts."""
        fresh = [outcome.fresh_share > 0 for outcome in outcomes]
        rephrased = [bool(outcome.copying_paraphrases) for outcome in outcomes]
        either = sum(one or other for one, other in zip(fresh, rephrased, strict=True))
        return cls(any=either, fresh=sum(fresh), paraphrases=sum(rephrased))


@dataclass(frozen=True, kw_only=True)
class OrdinaryNumbers:
    """What an edit does to images of ordinary captions, see `OrdinaryChange`.

    Args:
        changed: how many images changed.
        similarity, worst, correlation: the median and lowest similarity to the image before, and
            the median pixel correlation with it.
        alignment_before, alignment_after, clip_fid_before, clip_fid, kid_before, kid: None where
            they were not measured.
    """

    changed: Rate
    similarity: float
    worst: float
    correlation: float
    alignment_before: float | None
    alignment_after: float | None
    clip_fid_before: float | None
    clip_fid: float | None
    kid_before: float | None
    kid: float | None

    @classmethod
    def maybe(cls, change: OrdinaryChange | None) -> OrdinaryNumbers | None:
        """Take the numbers of a change, or None."""
        if change is None:
            return None
        return cls(
            changed=Rate.of(Copies(change.changed, change.images)),
            similarity=change.similarity,
            worst=change.worst,
            correlation=change.correlation,
            alignment_before=change.alignment_before,
            alignment_after=change.alignment_after,
            clip_fid_before=change.clip_fid_before,
            clip_fid=change.clip_fid,
            kid_before=change.kid_before,
            kid=change.kid,
        )


@dataclass(frozen=True, kw_only=True)
class CandidateNumbers:
    """An edit at the end of a ladder, see `CandidateSummary`."""

    ladder: str
    digest: str
    copying: int
    ordinary: OrdinaryNumbers | None


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """All numbers of a mitigation.

    Args:
        schema: the version of the format.
        suspects, called, confirmed: how many prompts were screened, called by the screen, and
            shown to be memorized.
        counts: how many suspects have each status.
        not_certified: how many memorized prompts are reduced or not removed.
        copying: how many memorized prompts have copies left; None without an edit.
        false_alarms: suspects that the screen called and that are not confirmed, since too few of
            their images are copies. None where it called none.
        single_copies: how many of them have a copy nevertheless, but a single one.
        before, after, control, paraphrases_before, paraphrases_after: copies among the images of
            all confirmed prompts. Those after are the first fresh ones of each, see
            `PromptOutcome`.
        ordinary, ordinary_control: what the edit changes in images of ordinary captions, and what
            as many random neurons change.
        candidates: the edits that the search compared.
        prompts: of each suspect, by its index as text.
        paraphrases: of each memorized prompt that has some, in their order, by its index as text.
        statement: what the operator states, which is no number; None where nothing is stated.
    """

    schema: str = SCHEMA
    suspects: int
    called: int
    confirmed: int
    counts: Mapping[str, int]
    not_certified: int
    copying: CopyingNumbers | None
    false_alarms: Rate | None
    single_copies: int
    before: Rate | None
    after: Rate | None
    control: Rate | None
    paraphrases_before: Rate | None
    paraphrases_after: Rate | None
    ordinary: OrdinaryNumbers | None
    ordinary_control: OrdinaryNumbers | None
    candidates: tuple[CandidateNumbers, ...]
    prompts: Mapping[str, PromptNumbers]
    paraphrases: Mapping[str, tuple[ParaphraseNumbers, ...]]
    statement: Statement | None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {name: to_json(value) for name, value in vars(self).items()}


def numbers_of(evidence: Evidence) -> Numbers:
    """Collect the numbers of a mitigation."""
    result, confirmed, called = evidence.result, evidence.confirmed, evidence.called
    cleared = [outcome for outcome in called if not outcome.confirmed]

    def rate(name: str) -> Rate | None:
        counts = (getattr(outcome, name) for outcome in confirmed)
        return Rate.maybe(pooled([counted for counted in counts if counted]))

    return Numbers(
        suspects=len(result.outcomes),
        called=len(called),
        confirmed=len(confirmed),
        counts={
            status: sum(outcome.status == status for outcome in result.outcomes)
            for status in STATUSES
        },
        not_certified=result.count("reduced") + result.count("not removed"),
        copying=CopyingNumbers.of(confirmed) if result.edit else None,
        false_alarms=Rate.maybe(Copies(len(cleared), len(called))),
        single_copies=sum(map(has_single_copy, cleared)),
        before=rate("before"),
        after=Rate.maybe(result.after),
        control=Rate.maybe(result.controls),
        paraphrases_before=rate("paraphrases_before"),
        paraphrases_after=rate("paraphrases_after"),
        ordinary=OrdinaryNumbers.maybe(result.ordinary),
        ordinary_control=OrdinaryNumbers.maybe(result.ordinary_control),
        candidates=tuple(
            CandidateNumbers(
                ladder=candidate.ladder,
                digest=candidate.digest,
                copying=candidate.copying,
                ordinary=OrdinaryNumbers.maybe(candidate.change),
            )
            for candidate in result.candidates
        ),
        prompts={str(outcome.index): _of_prompt(evidence, outcome) for outcome in result.outcomes},
        paraphrases={
            str(outcome.index): tuple(
                ParaphraseNumbers(
                    text=each.text, before=Rate.maybe(each.before), after=Rate.maybe(each.after)
                )
                for each in outcome.paraphrases
            )
            for outcome in confirmed
            if outcome.paraphrases
        },
        statement=evidence.statement,
    )


def _of_prompt(evidence: Evidence, outcome: PromptOutcome) -> PromptNumbers:
    localization = evidence.localizations.get(outcome.index)
    shares = evidence.reproduced.get(outcome.index)
    return PromptNumbers(
        index=outcome.index,
        prompt=outcome.prompt,
        group=outcome.group,
        status=outcome.status,
        verdict=outcome.verdict,
        score=outcome.score,
        measure=outcome.measure,
        level=outcome.level,
        before=Rate.maybe(outcome.before),
        after=Rate.maybe(outcome.after),
        control=Rate.maybe(control_copies(outcome)),
        worst_before=outcome.worst_before,
        worst_after=outcome.worst_after,
        reproduced_before=max(shares.before, default=None) if shares else None,
        reproduced_after=max(shares.after, default=None) if shares else None,
        reproduced_ordinary=max(shares.ordinary, default=None) if shares else None,
        alignment_before=outcome.alignment_before,
        alignment_after=outcome.alignment_after,
        paraphrases_before=Rate.maybe(outcome.paraphrases_before),
        paraphrases_after=Rate.maybe(outcome.paraphrases_after),
        rung=outcome.rung,
        neurons=len(localization.neurons) if localization else None,
    )


def has_single_copy(outcome: PromptOutcome) -> bool:
    """Tell whether exactly one of the unedited images of a suspect is a copy."""
    return outcome.before is not None and outcome.before.copies == 1


def control_copies(outcome: PromptOutcome) -> Copies | None:
    """Count the copies among a prompt's images with random neurons edited."""
    if outcome.level is None:
        return None
    copies = sum(score > outcome.level for score in outcome.scores_control)
    return Copies(copies, len(outcome.scores_control))


def json_text(numbers: Mapping[str, Any]) -> str:
    """Return ``report.json``."""
    return json.dumps(numbers, indent=1, ensure_ascii=False) + "\n"


def csv_text(records: Iterable[object]) -> str:
    """Return ``report.csv``, a line for each record. Columns are named as in ``report.json``."""
    rows = [flat(to_json(record)) for record in records]
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = [name for name in names if not any(each.startswith(f"{name}.") for each in names)]
    text = io.StringIO()
    writer = CsvWriter(text)
    writer.row(*columns)
    for row in rows:
        writer.row(*map(row.get, columns))
    return text.getvalue()


def flat(values: Any, outer: str = "") -> dict[str, Any]:
    """Return the values in nested objects and lists by their dotted names.

    Examples:
        >>> flat({"before": {"copies": 1}, "items": [{"a": 2}], "none": None})
        {'before.copies': 1, 'items.0.a': 2, 'none': None}
    """
    if isinstance(values, Mapping):
        items = [(str(name), value) for name, value in values.items()]
    elif isinstance(values, (list, tuple)):
        items = [(str(number), value) for number, value in enumerate(values)]
    else:
        return {outer: values}
    return {
        name: value
        for key, inner in items
        for name, value in flat(inner, f"{outer}.{key}" if outer else key).items()
    }
