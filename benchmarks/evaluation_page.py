"""The text of docs/evaluation.md: the tables that evaluation.py measures, and what they say."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import unmemorize as um
from unmemorize.metrics import QualityRecord, auroc, tpr_at_fpr
from unmemorize.report import Cell, Table, read_results
from unmemorize.report._results import Results

KINDS = ("VM", "TM")
MEASURES = (
    "SSCD_Orig",
    "SSCD_Orig, worst seed",
    "masked copy score",
    "SSCD_Gen",
    "D_SSCD",
    "A_CLIP",
)
"""The metrics of the table, as summaries call them."""
PUBLISHED = {
    "all active": {
        "VM": {"off": "0", "SSCD_Orig": ".83", "SSCD_Gen": "1.0", "D_SSCD": ".99", "A_CLIP": ".32"},
        "TM": {"off": "0", "SSCD_Orig": ".04", "SSCD_Gen": "1.0", "D_SSCD": ".17", "A_CLIP": ".31"},
    },
    "NeMo": {
        "VM": {
            "off": "4 ± 3",
            "SSCD_Orig": ".09",
            "SSCD_Gen": ".10",
            "D_SSCD": ".16",
            "A_CLIP": ".31",
        },
        "TM": {
            "off": "21 ± 18",
            "SSCD_Orig": ".05",
            "SSCD_Gen": ".05",
            "D_SSCD": ".12",
            "A_CLIP": ".31",
        },
    },
    "without refinement": {
        "VM": {"off": "26.5", "SSCD_Orig": ".07", "SSCD_Gen": ".11"},
        "TM": {"off": "674.5", "SSCD_Orig": ".04", "SSCD_Gen": ".09"},
    },
    "random neurons": {
        "VM": {
            "off": "4",
            "SSCD_Orig": ".80",
            "SSCD_Gen": ".999",
            "D_SSCD": ".99",
            "A_CLIP": ".32",
        },
        "TM": {
            "off": "21",
            "SSCD_Orig": ".05",
            "SSCD_Gen": ".997",
            "D_SSCD": ".16",
            "A_CLIP": ".31",
        },
    },
}
"""The paper's table: neurons off, and medians by heading."""
NOT_AS_PUBLISHED = " (**not as in the paper**)"
_FIRST_MEASURE = 2
"""Answers begin with how many prompts were detected and how many neurons are off."""

Answers = Mapping[str, Sequence[Cell]]
"""By kind of prompt: detected, neurons, and a cell for each of `MEASURES`."""


@dataclass(frozen=True, kw_only=True)
class QualityRow:
    """Ordinary images with neurons off.

    Args:
        name: of the neurons.
        neurons: how many are off.
        distances: from the images of another seed.
        same: SSCD_Gen.
        aligned: A_CLIP.
    """

    name: str
    neurons: int
    distances: QualityRecord
    same: Cell
    aligned: Cell


def page(
    run: um.Run,
    table: Table,
    rows: Mapping[str, Answers],
    quality: Sequence[QualityRow],
    seeds: int,
    settings: um.LocalizationSettings,
) -> str:
    """Write the page.

    Args:
        run: the run without ablations.
        table: its summary.
        rows: all rows of the table by name.
        quality: the rows of ordinary images.
        seeds: images per prompt.
        settings: how neurons were localized.
    """
    results = read_results(run)
    versions = run.manifest.versions
    made_with = ("unmemorize", "torch", "diffusers")
    lines = [
        "# Evaluation on the bundled model",
        "",
        *_introduction(results, seeds, settings),
        "",
        "What the numbers say about the paper's claims (these remarks are computed):",
        "",
        *(f"- {remark}" for remark in _remarks(rows, quality)),
        "",
    ]
    for kind in KINDS:
        lines += [f"## {kind}", "", *_table_of_kind(kind, rows), ""]
    lines += [
        "## Detection",
        "",
        *_detection(results, table),
        "",
        "## Quality of unmemorized images",
        "",
        *_quality(quality),
        "",
        "Made with " + ", ".join(f"{name} {versions[name]}" for name in made_with) + ".",
    ]
    return "\n".join(lines) + "\n"


def _introduction(results: Results, seeds: int, settings: um.LocalizationSettings) -> list[str]:
    metrics = results.metrics[0].measured
    return [
        "`make evaluation` writes this page (`benchmarks/evaluation.py`; it resumes after an",
        "interruption). The numbers are medians over the prompts detected as memorized ± MAD, with",
        f"the 95 % bootstrap interval in brackets. Each prompt is the median over {seeds} seeds.",
        f"Criterion `{settings.criterion}`, refinement `{settings.refinement}` as in the paper.",
        f"Copies are measured by {metrics['sscd-orig'].measured_by}, alignment by",
        f"{metrics['a-clip'].measured_by}.",
        "",
        "SSCD_Orig is the similarity to the training image, SSCD_Gen to the image of the same seed",
        "with nothing off, and D_SSCD between the seeds of a prompt. The published numbers",
        "(SD v1.4, the real SSCD and CLIP) are of another model and other networks: compare the",
        "pattern, not the values.",
    ]


def _table_of_kind(kind: str, rows: Mapping[str, Answers]) -> list[str]:
    shown = [
        (place, heading)
        for place, heading in enumerate(MEASURES, _FIRST_MEASURE)
        if kind == "TM" or heading != "masked copy score"
    ]
    lines = [_line(["", "detected", "neurons", *(heading for _, heading in shown)])]
    lines.append("|" + "---|" * (len(shown) + 3))
    for name, answers in rows.items():
        detected, neurons = answers[kind][:_FIRST_MEASURE]
        measured = [answers[kind][place] for place, _ in shown]
        lines.append(_line([name, *map(_figure, (detected, neurons, *measured))]))
    for name, published in PUBLISHED.items():
        medians = published[kind]
        cells = [medians.get(heading, "") for _, heading in shown]
        lines.append(_line([f"*published: {name}*", "", medians["off"], *cells]))
    return lines


def _detection(results: Results, table: Table) -> list[str]:
    scores = {
        group: [record.detection.score for record in results.localized(group) if record.detection]
        for group in results.groups
    }
    detected = next(row for row in table.rows if row.label == "detected as memorized")
    false = detected.cells[table.columns.index("unmemorized")]
    lines = [
        f"False positives at tau: {_figure(false)} unmemorized captions ({false.interval});",
        "published: 58 of 500.",
        "",
        _line(["", "AUROC", "TPR at 1 % FPR", "prompts"]),
        "|---|---|---|---|",
    ]
    others = scores["unmemorized"]
    for kind in KINDS:
        separation, rate = auroc(scores[kind], others), tpr_at_fpr(scores[kind], others)
        counts = f"{len(scores[kind])} against {len(others)}"
        lines.append(_line([kind, str(separation), str(rate), counts]))
    lines.append(_line(["*published*", ".98", ".876 (VM alone .982)", ""]))
    return lines


def _quality(rows: Sequence[QualityRow]) -> list[str]:
    lines = [
        f"{rows[0].distances.generated} captions that are not memorized, one image each, with the",
        "refined neurons of most prompts off, against images of the unchanged model for the same",
        "captions under another seed. The first row is the unchanged model. Random controls are",
        "smaller where a layer has too few other neurons. The features are those of the bundled",
        "CLIP, since no Inception network is available offline. KID is given ± its deviation over",
        "subsets of half of the images.",
        "",
        _line(["off", "neurons", "CLIP-FID", "1000 KID", "SSCD_Gen", "A_CLIP"]),
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        distances = row.distances
        kid = f"{1000 * distances.kid:.2f} ± {1000 * distances.kid_std:.2f}"
        changes = map(_figure, (row.same, row.aligned))
        lines.append(_line([row.name, str(row.neurons), f"{distances.fid:.3f}", kid, *changes]))
    return lines


def _remarks(rows: Mapping[str, Answers], quality: Sequence[QualityRow]) -> list[str]:
    """Test each claim of the paper's table on ours."""

    def value(name: str, kind: str, measure: str) -> float:
        cell = rows[name][kind][_FIRST_MEASURE + MEASURES.index(measure)]
        return float("nan") if cell.value is None else cell.value

    def claim(text: str, holds: Callable[[str], bool], shown: Callable[[str], str]) -> str:
        verdicts = [
            f"{kind} {shown(kind)}{'' if holds(kind) else NOT_AS_PUBLISHED}" for kind in KINDS
        ]
        return f"{text}: {'; '.join(verdicts)}."

    def change(first: str, second: str, measure: str) -> Callable[[str], str]:
        return lambda kind: (
            f"{value(first, kind, measure):.2f} → {value(second, kind, measure):.2f}"
        )

    before, after = "all active", "NeMo (scale 0)"
    copy, worst = "SSCD_Orig", "SSCD_Orig, worst seed"
    neurons = {kind: rows[after][kind][1].value or 0.0 for kind in KINDS}
    initial = {kind: rows["without refinement"][kind][1].value or 1 for kind in KINDS}
    refined_share = {kind: neurons[kind] / initial[kind] for kind in KINDS}
    return [
        claim(
            "The copy goes (SSCD_Orig)",
            lambda kind: value(after, kind, copy) < 0.5 * value(before, kind, copy),
            change(before, after, copy),
        ),
        claim(
            "It goes for every seed (SSCD_Orig of the worst seed at most half of before)",
            lambda kind: value(after, kind, worst) < 0.5 * value(before, kind, worst),
            change(before, after, worst),
        ),
        claim(
            "Seeds become diverse (D_SSCD)",
            lambda kind: value(after, kind, "D_SSCD") < value(before, kind, "D_SSCD"),
            change(before, after, "D_SSCD"),
        ),
        claim(
            "Alignment stays (A_CLIP within .05)",
            lambda kind: abs(value(after, kind, "A_CLIP") - value(before, kind, "A_CLIP")) <= 0.05,
            change(before, after, "A_CLIP"),
        ),
        claim(
            "Random neurons change nothing (SSCD_Gen above .95)",
            lambda kind: value("random neurons", kind, "SSCD_Gen") > 0.95,
            lambda kind: f"{value('random neurons', kind, 'SSCD_Gen'):.3f}",
        ),
        claim(
            "Refinement leaves a fraction of the initial neurons",
            lambda kind: refined_share[kind] < 0.5,
            lambda kind: f"{refined_share[kind]:.2f}",
        ),
        claim(
            "TM prompts need more neurons than VM prompts",
            lambda _kind: neurons["TM"] > neurons["VM"],
            lambda kind: f"{neurons[kind]:g}",
        ),
        claim(
            "Weakening falls short of switching off (SSCD_Orig at scale .5 above that at 0)",
            lambda kind: value("scale 0.5", kind, copy) > value(after, kind, copy),
            change("scale 0.5", after, copy),
        ),
        _remark_on_quality(quality),
    ]


def _remark_on_quality(rows: Sequence[QualityRow]) -> str:
    """Compare nothing off, few and most neurons off, and as many random ones."""
    original, _, few, *_, most, control = ((row.name, 1000 * row.distances.kid) for row in rows)
    verdict = "" if most[1] <= 1.1 * original[1] else NOT_AS_PUBLISHED
    return (
        f"Quality stays (1000 KID within 10 %): {original[1]:.0f} with nothing off, "
        f"{few[1]:.0f} with {few[0]} off, {most[1]:.0f} with {most[0]}{verdict}, "
        f"{control[1]:.0f} with random ones of the same layers."
    )


def _figure(cell: Cell) -> str:
    if cell.value is None:
        return "–"
    if cell.hits is not None:
        return f"{cell.hits} of {cell.count}"
    spread = f" ± {cell.spread:.2f}" if cell.spread is not None else ""
    interval = f" [{cell.low:.2f}, {cell.high:.2f}]" if cell.low is not None else ""
    return f"{cell.value:.2f}{spread}{interval}" if spread or interval else f"{cell.value:g}"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"
