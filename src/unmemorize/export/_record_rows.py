"""The records of a run as rows of one table, whatever kind of run it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from unmemorize._errors import RunError
from unmemorize._prompts import Prompt
from unmemorize.audit import AuditResult, AuditRun, ImageAuditResult, ImageAuditRun
from unmemorize.comparison import Comparison, ComparisonRun
from unmemorize.detection import DETECTIONS, read_detections
from unmemorize.localization import LOCALIZATIONS, Localization
from unmemorize.mitigation import Copies, MitigationResult, MitigationRun
from unmemorize.runs import Run, stream_with_prompts

NEURON_LIST = "neurons"
"""The type of a column with lists of neurons: layer and index each."""
_DETECTED = {
    "index": "int64",
    "prompt": "string",
    "kind": "string",
    "group": "string",
    "url": "string",
    "score": "double",
    "mean": "double",
    "tau": "double",
    "memorized": "bool",
    "seeds": "int64",
}
_LOCALIZED = {
    **_DETECTED,
    "neurons": NEURON_LIST,
    "initial_score": "double",
    "final_score": "double",
    "theta_exhausted": "bool",
}
_MITIGATED = {
    "index": "int64",
    "prompt": "string",
    "group": "string",
    "status": "string",
    "verdict": "string",
    "score": "double",
    "copies_before": "int64",
    "images_before": "int64",
    "copies_after": "int64",
    "images_after": "int64",
    "worst_before": "double",
    "worst_after": "double",
    "alignment_before": "double",
    "alignment_after": "double",
    "rung": "string",
}
_AUDITED = {
    "index": "int64",
    "prompt": "string",
    "arm": "string",
    "attack": "string",
    "score": "double",
    "triggered_at": "int64",
    "work": "int64",
}
_IMAGES = {
    "file": "string",
    "found": "bool",
    "copied_at": "int64",
    "score": "double",
    "p": "double",
    "adjusted": "double",
}
_COMPARED_TEXT = ("part", "name", "group", "reason")


@dataclass(frozen=True)
class RecordRows:
    """A table of the records of a run.

    Args:
        columns: the type of each column, as Arrow names it, or `NEURON_LIST`.
        key: the columns that tell what a row is about. They agree between runs.
        rows: by column. What is unknown is None or left out.
    """

    columns: Mapping[str, str]
    key: tuple[str, ...]
    rows: Iterator[dict[str, Any]]


def record_rows(run: Run) -> RecordRows:
    """Return the records of a run as rows: what each row is depends on the kind of the run.

    A detection, localization or mitigation has a row per finished prompt, an audit one per arm,
    attack and prompt, an audit of images one per image, and a comparison those of comparison.csv.

    Raises:
        RunError: the run has no records yet, or a record is damaged.
    """
    of_kind: dict[str, Callable[[Run], RecordRows]] = {
        MitigationRun.kind: _of_mitigation,
        AuditRun.kind: _of_audit,
        ImageAuditRun.kind: _of_images,
        ComparisonRun.kind: _of_comparison,
    }
    if run.manifest.kind in of_kind:
        return of_kind[run.manifest.kind](run)
    if run.files(LOCALIZATIONS):
        return RecordRows(_LOCALIZED, ("prompt",), _localizations(run))
    if run.files(DETECTIONS):
        return RecordRows(_DETECTED, ("prompt",), _detections(run))
    raise RunError(
        f"{run.folder}: there are neither detections nor localizations in it. "
        "Run detect or localize first."
    )


def _of_mitigation(run: Run) -> RecordRows:
    return RecordRows(_MITIGATED, ("prompt",), _outcomes(MitigationResult.load(run)))


def _outcomes(result: MitigationResult) -> Iterator[dict[str, Any]]:
    for outcome in result.outcomes:
        yield {
            **{name: getattr(outcome, name) for name in _MITIGATED if hasattr(outcome, name)},
            **_counts("before", outcome.before),
            **_counts("after", outcome.after),
        }


def _counts(when: str, copies: Copies | None) -> dict[str, int]:
    if copies is None:
        return {}
    return {f"copies_{when}": copies.copies, f"images_{when}": copies.seeds}


def _of_audit(run: Run) -> RecordRows:
    rows = (
        {
            "index": image.index,
            "prompt": image.prompt,
            "arm": image.arm,
            "attack": image.attack,
            "score": max(image.scores),
            "triggered_at": image.triggered_at,
            "work": image.work,
        }
        for image in AuditResult.load(run).images
    )
    return RecordRows(_AUDITED, ("prompt", "arm", "attack"), rows)


def _of_images(run: Run) -> RecordRows:
    rows = (
        {name: getattr(finding, name) for name in _IMAGES}
        for finding in ImageAuditResult.load(run).findings
    )
    return RecordRows(_IMAGES, ("file",), rows)


def _of_comparison(run: Run) -> RecordRows:
    rows = Comparison.load(run).rows()
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: "string" if name in _COMPARED_TEXT else "double" for name in names}
    key = tuple(name for name in ("part", "name", "strength", "group") if name in columns)
    return RecordRows(columns, key, iter(rows))


def _detections(run: Run) -> Iterator[dict[str, Any]]:
    for index, prompt, detection in read_detections(run):
        yield {
            **_of_prompt(index, prompt, detection.prompt, detection.group),
            "score": detection.score,
            "mean": detection.mean,
            "tau": detection.tau,
            "memorized": detection.memorized,
            "seeds": detection.seeds,
        }


def _localizations(run: Run) -> Iterator[dict[str, Any]]:
    for index, prompt, content in stream_with_prompts(run, LOCALIZATIONS):
        record = Localization.from_json(content)
        detection = record.detection
        yield {
            **_of_prompt(index, prompt, record.prompt, record.group),
            "score": detection.score if detection else None,
            "mean": detection.mean if detection else None,
            "tau": detection.tau if detection else None,
            "memorized": record.memorized,
            "seeds": detection.seeds if detection else None,
            "neurons": [{"layer": layer, "index": neuron} for layer, neuron in record.neurons],
            "initial_score": record.initial_score,
            "final_score": record.score,
            "theta_exhausted": record.theta_exhausted,
        }


def _of_prompt(index: int, prompt: Prompt, text: str, group: str) -> dict[str, Any]:
    return {"index": index, "prompt": text, "kind": prompt.kind, "group": group, "url": prompt.url}
