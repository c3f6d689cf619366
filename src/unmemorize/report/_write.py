"""The report of a run: one HTML page that holds everything and loads nothing from the network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from unmemorize._errors import RunError
from unmemorize._words import counted
from unmemorize.audit import AuditRun, ImageAuditRun
from unmemorize.comparison import ComparisonRun
from unmemorize.generation import OVERALL
from unmemorize.hardening import AUDIT, HardeningRun
from unmemorize.localization import LOCALIZATIONS, Localization
from unmemorize.metrics import PromptMetrics
from unmemorize.mitigation import MitigationRun
from unmemorize.report._audit import write_audit_report
from unmemorize.report._cards import make_cards
from unmemorize.report._comparison import write_comparison
from unmemorize.report._drawing import plotting, to_svg
from unmemorize.report._image_audit import write_image_audit
from unmemorize.report._mitigation import write_mitigation_report
from unmemorize.report._packed_files import refuse_absent_private
from unmemorize.report._page import COMPARISON, REPORT, Script, render
from unmemorize.report._plots import PLOTS
from unmemorize.report._provenance import steps_of
from unmemorize.report._results import SET_LABELS, SSCD_ORIG, Results, read_results
from unmemorize.report._summary import summary_table
from unmemorize.report._table import Cell
from unmemorize.report._truth import Truth
from unmemorize.runs import Run


@dataclass(frozen=True)
class Tile:
    """One number of the headline: the value, its meaning, and its 95 % interval."""

    value: str
    meaning: str
    interval: str


@dataclass(frozen=True)
class Line:
    """One prompt in the table of all prompts. Numbers are None where they are unknown.

    Args:
        index, prompt, group: the prompt.
        memorized: whether it was detected as memorized.
        score: of its detection.
        neurons: how many are left after refinement.
        before, after: SSCD_Orig without and with these neurons off, the median over seeds.
    """

    index: int
    prompt: str
    group: str
    memorized: bool
    score: float | None
    neurons: int | None
    before: float | None
    after: float | None


_PAGES = {
    MitigationRun.kind: REPORT,
    AuditRun.kind: REPORT,
    ImageAuditRun.kind: REPORT,
    ComparisonRun.kind: COMPARISON,
}


def page_of(run: Run) -> str | None:
    """Return the name of the page that `write_report` writes for a run; None if it writes none.

    Runs of other kinds have one if they hold localizations, also imported ones.
    """
    return _PAGES.get(run.manifest.kind, REPORT if run.files(LOCALIZATIONS) else None)


def write_report(
    run: Run | str | Path,
    truth: Truth | None = None,
    *,
    redact: bool = False,
    statement: str | Path | None = None,
) -> Path:
    """Write ``report.html`` into the run folder, from the steps that are done.

    That of a mitigation or of an audit of images comes with its numbers, ``report.json`` and
    ``report.csv``.

    Args:
        run: a run with localizations, a mitigation, an audit of an edit or of images, or a
            comparison, whose page is ``compare.html``; or its folder.
        truth: known neurons of some prompts, for precision and recall.
        redact: whether training images are private. They are left out then, with all generated
            images that show them.
        statement: a JSON file with what only the operator can state, see docs/report.md. It is
            copied into the folder of a mitigation, and the next reports have it, too.

    Returns:
        The path of the page.

    Raises:
        RunError: nothing is localized yet, the run is a hardening, a record is damaged, or the
            statement is malformed or for a run that is no mitigation.
        EvidenceError: the folder comes from a redacted pack of evidence, and ``redact`` is False.
        MetricError: an image is missing or damaged.
    """
    run = Run.of(run)
    if not redact:
        refuse_absent_private(run.folder)
    if run.manifest.kind == MitigationRun.kind:
        return write_mitigation_report(run, redact=redact, statement=statement)
    if statement is not None:
        raise RunError(
            f"{run.folder}: only the report of a mitigation holds a statement, and this is a run "
            f"of kind {run.manifest.kind}. Leave it out, and hand it over beside the page."
        )
    if run.manifest.kind == AuditRun.kind:
        return write_audit_report(run)
    if run.manifest.kind == ImageAuditRun.kind:
        return write_image_audit(run, redact=redact)
    if run.manifest.kind == ComparisonRun.kind:
        return write_comparison(run)
    if run.manifest.kind == HardeningRun.kind:
        raise RunError(
            f"{run.folder}: a hardening has no page of its own. The attacks that judge it have: "
            f"unmemorize report {run.folder / AUDIT}"
        )
    results = read_results(run)
    localizations = results.localizations.values()
    page = render(
        "report.html.j2",
        script=Script.read("report.js"),
        manifest=run.manifest,
        verdict=_verdict(localizations),
        where=_where(localizations),
        table=summary_table(results, truth, redact=redact),
        prompts=len(results.prompts),
        done=len(localizations),
        memorized=sum(record.memorized for record in localizations),
        neurons=len({pair for record in localizations for pair in record.neurons}),
        headline=list(_headline(results)),
        has_control=bool(results.of_set("random-refined")),
        plots=_plots(results),
        lines=list(_lines(results)),
        cards=list(make_cards(run, results, truth, redact=redact)),
        steps=list(steps_of(run)),
        redacted=redact,
    )
    return run.write(REPORT, page)


def _verdict(localizations: Collection[Localization]) -> str:
    """Say how many prompts are memorized, as far as detection tells."""
    memorized, count = sum(record.memorized for record in localizations), len(localizations)
    if count == 1:
        return f"The prompt is {'' if memorized else 'not '}detected as memorized."
    if not memorized:
        return f"None of {count} prompts is detected as memorized."
    return f"{memorized} of {count} prompts {_are(memorized)} detected as memorized."


def _where(localizations: Collection[Localization]) -> str:
    """Say where the neurons of all memorized prompts sit; nothing where there are none."""
    neurons = {neuron for record in localizations for neuron in record.neurons}
    if not neurons:
        return ""
    layers = Counter(layer for layer, _ in neurons)
    first, most = layers.most_common(1)[0]
    count = len(neurons)
    found = f"{counted(count, 'neuron')} {_are(count)} localized"
    if len(layers) == 1:
        return f"{found}, in one layer: {first}."
    return f"{found}, in {len(layers)} layers; most of one layer, {most}, in {first}."


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _plots(results: Results) -> list[tuple[str, Markup]]:
    with plotting():
        figures = {heading: plot(results) for heading, plot in PLOTS.items()}
        return [
            (heading, Markup(to_svg(figure)))
            for heading, figure in figures.items()
            if figure is not None
        ]


def _headline(results: Results) -> Iterator[Tile]:
    """Yield the copies before and after, where they were measured."""
    for set_name in ("original", "refined", "random-refined"):
        records = results.of_column(set_name, OVERALL)
        state = SET_LABELS[set_name]
        figures = {
            f"SSCD_Orig (copy score to the training image), {state}": PromptMetrics.median,
        }
        if set_name == "refined":
            figures[f"SSCD_Orig of each prompt's worst seed, {state}"] = PromptMetrics.highest
        for meaning, figure in figures.items():
            cell = Cell.median((figure(each, SSCD_ORIG) for each in records), results.medians)
            if cell.value is not None:
                yield Tile(f"{cell.value:.2f}", meaning, cell.interval)


def _lines(results: Results) -> Iterator[Line]:
    for index, record in results.localizations.items():
        yield Line(
            index=index,
            prompt=record.prompt,
            group=record.group,
            memorized=record.memorized,
            score=record.detection.score if record.detection else None,
            neurons=len(record.neurons) if record.memorized else None,
            before=results.of_prompt("original", index).median(SSCD_ORIG),
            after=results.of_prompt("refined", index).median(SSCD_ORIG),
        )
