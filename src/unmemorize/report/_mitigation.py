"""The report of a mitigation: verdict, pictures, how sure, what it costs, limits, how to repeat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from unmemorize.metrics import read_image
from unmemorize.mitigation import FEWEST_COPIES, confirmation_chance
from unmemorize.report._access import levels_of_access
from unmemorize.report._annex import REQUIREMENTS, SECTIONS, fields_of
from unmemorize.report._audit import audits_of
from unmemorize.report._evidence import Evidence, read_evidence
from unmemorize.report._figures import Figures
from unmemorize.report._glossary import Glossary
from unmemorize.report._numbers import (
    NUMBERS,
    TABLE,
    csv_text,
    has_single_copy,
    json_text,
    numbers_of,
)
from unmemorize.report._page import REPORT, Script, render
from unmemorize.report._pictures import Pictures
from unmemorize.report._provenance import output_hashes, steps_of
from unmemorize.report._redaction import private_ordinary
from unmemorize.report._spot_check import read_spot_check
from unmemorize.report._statement import keep_statement
from unmemorize.report._wall import Picture, wall
from unmemorize.runs import Run

_ORDINARY = Pictures(192, 80, 4)
_COPY_RATES = (0.05, 0.1, 0.2, 0.3)
"""Copy rates for which the page says how many prompts confirmation misses."""


def write_mitigation_report(
    run: Run, *, redact: bool = False, statement: str | Path | None = None
) -> Path:
    """Write the page of a finished mitigation, and its numbers as JSON and CSV beside it.

    Args:
        run: a finished mitigation.
        redact: whether training images are private, see `unmemorize.report._redaction`.
        statement: what the operator states, see `keep_statement`.

    Returns:
        The path of the page.

    Raises:
        RunError: the mitigation is not finished, a record is damaged, or the statement is none.
        MetricError: an image is missing or damaged.
    """
    evidence = read_evidence(run)
    if statement is not None:
        keep_statement(run, statement)
    numbers = numbers_of(evidence)
    steps = list(steps_of(run))
    edited = evidence.result.file
    audits = list(audits_of(run, edited.edit if edited else None))
    access = list(levels_of_access(audits))
    prompts = [prompt.text for prompt in evidence.prompts]
    check = read_spot_check(run)
    cleared = [outcome for outcome in evidence.result.outcomes if not outcome.confirmed]
    confirming = sorted({each.before.seeds for each in evidence.called if each.before})
    page = render(
        "mitigation.html.j2",
        script=Script.read("mitigation.js"),
        headline=evidence.result.headline,
        manifest=run.manifest,
        evidence=evidence,
        result=evidence.result,
        mitigation=evidence.mitigation,
        settings=evidence.mitigation.settings,
        n=Figures(numbers.to_json()),
        term=Glossary(),
        wall=list(wall(evidence, redact=redact)),
        single=[outcome for outcome in cleared if has_single_copy(outcome)],
        others=[outcome for outcome in cleared if not has_single_copy(outcome)],
        fewest=FEWEST_COPIES,
        confirming=confirming,
        missed=_missed(confirming) if confirming else "",
        ordinary=list(_ordinary(evidence, redact)),
        steps=steps,
        audits=audits,
        access=access,
        outputs=output_hashes(run),
        spot_check=check if check and check.edit == evidence.result.edit else None,
        references=list(zip(prompts, evidence.references, strict=True)),
        requirements=REQUIREMENTS,
        sections=SECTIONS,
        fields=list(fields_of(evidence, access)),
        redacted=redact,
    )
    run.write(NUMBERS, json_text(numbers.to_json()))
    run.write(TABLE, csv_text(numbers.prompts.values()))
    return run.write(REPORT, page)


def _missed(confirming: Sequence[int]) -> str:
    """Say how many of the prompts that copy seldom are confirmed by these numbers of images."""
    rates = ", ".join(f"{100 * rate:g}" for rate in _COPY_RATES)
    chances = [
        f"{FEWEST_COPIES} of {images} images are copies with probabilities of "
        + ", ".join(f"{confirmation_chance(rate, images):.3f}" for rate in _COPY_RATES)
        for images in confirming
    ]
    return (
        f"Confirmation misses prompts that copy seldom: at copy rates of {rates} %, at least "
        f"{', and at least '.join(chances)}."
    )


def _ordinary(evidence: Evidence, redact: bool) -> Iterator[tuple[str, Picture, Picture]]:
    """Yield caption, image before and image after of the ordinary images that changed most."""
    if evidence.result.ordinary is None:
        return
    private = private_ordinary(evidence) if redact else ()
    folder = evidence.run.folder
    shown = [each for each in evidence.result.ordinary.shown if Path(each[1]).name not in private]
    for caption, *files in shown[: _ORDINARY.most]:
        before, after = (
            Picture(_ORDINARY.url(read_image(folder / file)), f"{state}: {caption}", file=file)
            for state, file in zip(("before", "after"), files, strict=True)
        )
        yield caption, before, after
