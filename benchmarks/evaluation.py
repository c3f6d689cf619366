"""The published table on the bundled model, with its ablations and controls: python benchmarks/evaluation.py [WORK OUTPUT]

Localizes, generates and evaluates in WORK (by default work/evaluation, where an interrupted run goes on) and writes OUTPUT (by default
docs/evaluation.md). About an hour on two cores.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import unmemorize as um
from unmemorize.generation import ImageSet, NeuronSet, generate_all
from unmemorize.localization import localization_config, localize_all
from unmemorize.metrics import auroc, evaluate_all, quality_all, tpr_at_fpr
from unmemorize.report import Cell, Table, read_results, summary_table
from unmemorize.runs import open_run

SCALES = (0.75, 0.5, 0.25, -0.25, -1.0)
TOP = (5, 10, 25, 50, 100)
UNMEMORIZED = 200
KINDS = ("VM", "TM")
PUBLISHED = {
    "all active": {
        "VM": ("0", ".83", "1.0", ".99", ".32"),
        "TM": ("0", ".04", "1.0", ".17", ".31"),
    },
    "NeMo": {
        "VM": ("4 ± 3", ".09", ".10", ".16", ".31"),
        "TM": ("21 ± 18", ".05", ".05", ".12", ".31"),
    },
    "without refinement": {
        "VM": ("26.5", ".07", ".11", "", ""),
        "TM": ("674.5", ".04", ".09", "", ""),
    },
    "random neurons": {
        "VM": ("4", ".80", ".999", ".99", ".32"),
        "TM": ("21", ".05", ".997", ".16", ".31"),
    },
}
MEASURES = (
    "SSCD_Orig",
    "SSCD_Orig, worst seed",
    "masked copy score",
    "SSCD_Gen",
    "D_SSCD",
    "A_CLIP",
)
HEADINGS = (
    "SSCD_Orig",
    "SSCD_Orig, worst seed",
    "masked copy score",
    "SSCD_Gen",
    "D_SSCD",
    "A_CLIP",
)


@dataclass(frozen=True)
class QualityRow:
    """Images of unmemorized captions with some neurons off: their distances, and what changed in them."""

    name: str
    neurons: int
    distances: Mapping[str, Any]
    same: Cell
    aligned: Cell


class Evaluation:
    """The bundled model with what every row of the table needs."""

    def __init__(self, work: Path, limit: int | None, images: int) -> None:
        self.work, self.limit = work, limit
        self.pipe = um.load_pipeline("testbed", device="cpu")
        self.model = um.Model(self.pipe)
        self.statistics = um.Statistics.load(um.testbed.statistics_path())
        self.threshold = um.Threshold.load(um.testbed.threshold_path())
        self.settings = um.LocalizationSettings(
            noise=self.threshold.settings,
            criterion=um.testbed.defaults()["criterion"],
            refinement="greedy",
        )
        own = um.testbed.defaults()
        self.generation = um.GenerationSettings(
            images=images, steps=own["steps"], guidance=own["guidance"], batch=16
        )
        self.descriptor, self.alignment = um.BundledDescriptor(), um.ClipAlignment()
        full = [entry.prompt for entry in um.testbed.planted() if entry.mode != "rare"]
        self.memorized = [
            prompt for kind in KINDS for prompt in [p for p in full if p.kind == kind][:limit]
        ]
        self.captions = [
            um.Prompt(text, group="unmemorized")
            for text in um.testbed.captions("test")[: limit or UNMEMORIZED]
        ]

    def localize(
        self,
        name: str,
        prompts: Sequence[um.Prompt],
        threshold: um.Threshold,
        settings: um.LocalizationSettings,
    ) -> um.Run:
        """A run of its own for these settings."""
        config = {
            "command": "evaluation",
            **localization_config(self.model, settings, self.statistics, threshold),
        }
        run = open_run(self.work / name, self.pipe, prompts, config)
        localize_all(
            run,
            self.pipe,
            statistics=self.statistics,
            threshold=threshold,
            settings=settings,
            progress=_said(f"{name}: localize"),
        )
        return run

    def images(self, run: um.Run, neurons: str, scale: float = 0.0, **others: Any) -> str:
        """Generate a set of images; returns its name."""
        asked = ImageSet(neurons=NeuronSet.parse(neurons), **{"prompts": (), "label": "", **others})
        name = asked.name(scale)
        settings = (
            replace(self.generation, scale=scale, images=1)
            if asked.prompts
            else replace(self.generation, scale=scale)
        )
        if asked.label == "captions-again":
            settings = replace(settings, seed=settings.seed + 1)
        generate_all(
            run, self.pipe, asked, settings, progress=_said(f"{run.folder.name}: generate {name}")
        )
        return name

    def measure(self, run: um.Run, *names: str) -> Table:
        for name in names:
            evaluate_all(
                run,
                name,
                descriptor=self.descriptor,
                alignment=self.alignment,
                progress=_said(f"{run.folder.name}: {name}"),
            )
        return summary_table(read_results(run))


def main(work: Path, output: Path, limit: int | None = None, images: int = 4) -> None:
    evaluation = Evaluation(work, limit, images)
    base = evaluation.localize(
        "base",
        [*evaluation.memorized, *evaluation.captions],
        evaluation.threshold,
        evaluation.settings,
    )
    sets = [
        evaluation.images(base, name)
        for name in ("original", "refined", "initial", "random-refined", "random-initial")
    ]
    sets += [evaluation.images(base, "refined", scale) for scale in SCALES]
    table = evaluation.measure(base, *sets)
    rows = {
        "all active": _answers(table, "original", "before"),
        "NeMo (scale 0)": _answers(table, "refined", "neurons off"),
        "without refinement": _answers(table, "initial", "initial selection off"),
        "random neurons": _answers(table, "refined", "random neurons off"),
        "random neurons, as many as initially": _answers(
            table, "initial", "random neurons off, as many as initially"
        ),
    }
    rows |= {
        f"scale {scale:g}": _answers(table, "refined", f"refined-scale-{scale:g}")
        for scale in SCALES
    }
    rows |= {
        name: _ablation(evaluation, base, name, *what)
        for name, what in _ablations(evaluation).items()
    }
    quality = _quality(evaluation, base)
    output.write_text(_document(evaluation, base, table, rows, quality), encoding="utf-8")
    print(f"written: {output}")


def _ablations(evaluation: Evaluation) -> dict[str, tuple[um.Threshold, um.LocalizationSettings]]:
    path = evaluation.work / "threshold-with-guidance.json"
    noise = replace(evaluation.threshold.settings, guidance=evaluation.generation.guidance)
    if not path.exists():
        um.calibrate_threshold(
            evaluation.pipe,
            um.testbed.captions("calibration")[: evaluation.limit],
            settings=noise,
            reduction=um.testbed.defaults()["reduction"],
            progress=_said("threshold with guidance"),
        ).save(path)
    guided, threshold, settings = um.Threshold.load(path), evaluation.threshold, evaluation.settings
    return {
        "no top-k": (threshold, replace(settings, use_top_k=False)),
        "no theta": (threshold, replace(settings, use_theta=False)),
        "tau - 1 sd": (threshold.shifted(-1), settings),
        "tau + 2 sd": (threshold.shifted(2), settings),
        f"with guidance {noise.guidance:g}": (guided, replace(settings, noise=noise)),
    }


def _ablation(
    evaluation: Evaluation,
    base: um.Run,
    name: str,
    threshold: um.Threshold,
    settings: um.LocalizationSettings,
) -> dict[str, list[Cell]]:
    run = evaluation.localize(name.replace(" ", ""), evaluation.memorized, threshold, settings)
    originals = run.folder / "images" / "original"
    if (
        not originals.exists()
    ):  # the same images as those of the base run, which has the same prompts in the same places
        shutil.copytree(base.folder / "images" / "original", originals)
    table = evaluation.measure(
        run, evaluation.images(run, "original"), evaluation.images(run, "refined")
    )
    return _answers(table, "refined", "neurons off")


def _quality(evaluation: Evaluation, run: um.Run) -> list[QualityRow]:
    """Captions without memory, one image each, with the most frequent neurons of all prompts off, against other seeds of nothing off."""
    others: dict[str, Any] = {"prompts": evaluation.captions, "label": "captions"}
    again = evaluation.images(run, "original", prompts=evaluation.captions, label="captions-again")
    choices = ("original", *(f"top-{k}" for k in TOP), f"random-top-{TOP[-1]}")
    names = [evaluation.images(run, name, **others) for name in choices]
    quality_all(run, names, run.folder / "images" / again, evaluation.alignment)
    table = evaluation.measure(run, *names)
    found = {record["set"]: record for record in run.records("quality").values()}
    rows = []
    for name in names:
        short = name.removesuffix("-on-captions")
        off = um.Neurons(um.Run.load(run.folder / "images" / name).records("images")[0]["neurons"])
        label = "before" if short == "original" else short
        same, aligned = (
            _cell(table, f"{measure}, {label}", "captions")
            for measure in ("SSCD_Gen", "A_CLIP")
        )
        rows.append(QualityRow(short, len(off), found[name], same, aligned))
    return rows


def _answers(table: Table, neurons: str, label: str) -> dict[str, list[Cell]]:
    counted = {"refined": "neurons, refined", "initial": "neurons, initial selection"}.get(neurons)
    return {
        kind: [
            _cell(table, "detected as memorized", kind),
            _cell(table, counted, kind) if counted else Cell(value=0),
            *(_cell(table, f"{measure}, {label}", kind) for measure in MEASURES),
        ]
        for kind in KINDS
    }


def _cell(table: Table, label: str, column: str) -> Cell:
    row = next((row for row in table.rows if row.label == label), None)
    return row.cells[table.columns.index(column)] if row else Cell()


def _figure(cell: Cell) -> str:
    if cell.value is None:
        return "–"
    if cell.hits is not None:
        return f"{cell.hits} of {cell.count}"
    spread = f" ± {cell.spread:.2f}" if cell.spread is not None else ""
    interval = f" [{cell.low:.2f}, {cell.high:.2f}]" if cell.low is not None else ""
    return f"{cell.value:.2f}{spread}{interval}" if spread or interval else f"{cell.value:g}"


def _document(
    evaluation: Evaluation,
    base: um.Run,
    table: Table,
    rows: Mapping[str, Mapping[str, list[Cell]]],
    quality: Sequence[QualityRow],
) -> str:
    results = read_results(base)
    scores = {
        group: [record.detection.score for record in results.localized(group) if record.detection]
        for group in results.groups
    }
    lines = [
        "# Evaluation on the bundled model",
        "",
        "Written by `make evaluation` (`benchmarks/evaluation.py`; an interrupted run goes on). Medians over the prompts detected as",
        f"memorized ± MAD [95 % bootstrap interval], each the median over {evaluation.generation.images} seeds; criterion",
        f"`{evaluation.settings.criterion}`, refinement `{evaluation.settings.refinement}` as in the paper.",
        f"Copies by {results.metrics[0].descriptor}, alignment by {results.metrics[0].clip}.",
        "SSCD_Orig: similarity to the training image. SSCD_Gen: to the image of the same seed with nothing off. D_SSCD: between seeds.",
        "Published numbers (SD v1.4, real SSCD and CLIP) measure another model by other networks: compare the pattern, not the values.",
        "",
        "What these numbers say beside the paper's, the remarks being computed from the tables:",
        "",
        *(f"- {remark}" for remark in _remarks(rows, quality)),
        "",
    ]
    for kind in KINDS:
        shown = [
            place
            for place, name in enumerate(HEADINGS)
            if kind == "TM" or name != "masked copy score"
        ]
        lines += [
            f"## {kind}",
            "",
            "| | detected | neurons | " + " | ".join(HEADINGS[place] for place in shown) + " |",
            "|" + "---|" * (len(shown) + 3),
        ]
        for name, answers in rows.items():
            detected, neurons, *measured = answers[kind]
            cells = [
                _figure(detected),
                _figure(neurons),
                *(_figure(measured[place]) for place in shown),
            ]
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        for name, published in PUBLISHED.items():
            neurons_off, orig, gen, diverse, aligned = published[kind]
            by_heading = {"SSCD_Orig": orig, "SSCD_Gen": gen, "D_SSCD": diverse, "A_CLIP": aligned}
            cells = ["", neurons_off, *(by_heading.get(HEADINGS[place], "") for place in shown)]
            lines.append(f"| *published: {name}* | " + " | ".join(cells) + " |")
        lines.append("")
    false = _cell(table, "detected as memorized", "unmemorized")
    lines += [
        "## Detection",
        "",
        f"False positives at tau: {_figure(false)} unmemorized captions ({false.interval}); published: 58 of 500.",
        "",
        "| | AUROC | TPR at 1 % FPR | prompts |",
        "|---|---|---|---|",
    ]
    for kind in KINDS:
        counts = f"{len(scores[kind])} against {len(scores['unmemorized'])}"
        lines.append(
            f"| {kind} | {auroc(scores[kind], scores['unmemorized'])} | {tpr_at_fpr(scores[kind], scores['unmemorized'])} | {counts} |"
        )
    lines += [
        "| *published* | .98 | .876 (VM alone .982) | |",
        "",
        "## Quality of unmemorized images",
        "",
        f"{len(evaluation.captions)} captions that are not memorized, one image each, with the refined neurons of most prompts off,",
        "against the images of the unchanged model for the same captions under another seed; the first row is the unchanged model itself.",
        "Random controls are fewer where a layer has not enough other neurons. Features of the bundled CLIP, as no Inception network can",
        "be had offline; KID ± its deviation over subsets of half of the images.",
        "",
        "| off | neurons | CLIP-FID | 1000 KID | SSCD_Gen | A_CLIP |",
        "|---|---|---|---|---|---|",
    ]
    for row in quality:
        kid = f"{1000 * row.distances['kid']:.2f} ± {1000 * row.distances['kid_std']:.2f}"
        changes = f"{_figure(row.same)} | {_figure(row.aligned)}"
        lines.append(
            f"| {row.name} | {row.neurons} | {row.distances['fid']:.3f} | {kid} | {changes} |"
        )
    manifest = base.manifest["versions"]
    lines += [
        "",
        "Made with "
        + ", ".join(
            f"{name} {manifest[name]}"
            for name in ("unmemorize", "torch", "diffusers", "torchmetrics")
        )
        + ".",
    ]
    return "\n".join(lines) + "\n"


def _remarks(
    rows: Mapping[str, Mapping[str, list[Cell]]], quality: Sequence[QualityRow]
) -> list[str]:
    """Each claim of the paper's table, tested on ours."""

    def value(name: str, kind: str, measure: str) -> float:
        cell = rows[name][kind][2 + MEASURES.index(measure)]
        return float("nan") if cell.value is None else cell.value

    def claim(text: str, holds: Callable[[str], bool], shown: Callable[[str], str]) -> str:
        verdicts = {kind: holds(kind) for kind in KINDS}
        found = "; ".join(
            f"{kind} {shown(kind)}{'' if verdicts[kind] else ' (**not as in the paper**)'}"
            for kind in KINDS
        )
        return f"{text}: {found}."

    def change(first: str, second: str, measure: str) -> Callable[[str], str]:
        return lambda kind: (
            f"{value(first, kind, measure):.2f} → {value(second, kind, measure):.2f}"
        )

    before, after = "all active", "NeMo (scale 0)"
    neurons = {kind: rows[after][kind][1].value or 0.0 for kind in KINDS}
    refined_share = {
        kind: neurons[kind] / (rows["without refinement"][kind][1].value or 1) for kind in KINDS
    }
    remarks = [
        claim(
            "The copy goes (SSCD_Orig)",
            lambda kind: value(after, kind, "SSCD_Orig") < 0.5 * value(before, kind, "SSCD_Orig"),
            change(before, after, "SSCD_Orig"),
        ),
        claim(
            "It goes for every seed (SSCD_Orig of the worst seed below half of what it was)",
            lambda kind: (
                value(after, kind, "SSCD_Orig, worst seed")
                < 0.5 * value(before, kind, "SSCD_Orig, worst seed")
            ),
            change(before, after, "SSCD_Orig, worst seed"),
        ),
        claim(
            "Seeds become diverse (D_SSCD)",
            lambda kind: value(after, kind, "D_SSCD") < value(before, kind, "D_SSCD"),
            change(before, after, "D_SSCD"),
        ),
        claim(
            "Alignment stays (A_CLIP within .05)",
            lambda kind: (
                abs(value(after, kind, "A_CLIP") - value(before, kind, "A_CLIP")) <= 0.05
            ),
            change(before, after, "A_CLIP"),
        ),
        claim(
            "Random neurons change nothing (SSCD_Gen above .95)",
            lambda kind: value("random neurons", kind, "SSCD_Gen") > 0.95,
            lambda kind: f"{value('random neurons', kind, 'same as before'):.3f}",
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
            lambda kind: value("scale 0.5", kind, "SSCD_Orig") > value(after, kind, "SSCD_Orig"),
            change("scale 0.5", after, "SSCD_Orig"),
        ),
    ]
    kid = {row.name: 1000 * row.distances["kid"] for row in quality}
    few, most, control = f"top-{TOP[1]}", f"top-{TOP[-1]}", f"random-top-{TOP[-1]}"
    verdict = "" if kid[most] <= 1.1 * kid["original"] else " (**not as in the paper**)"
    remarks.append(
        f"Quality stays (1000 KID within 10 %): {kid['original']:.0f} with nothing off, {kid[few]:.0f} with the {TOP[1]} most frequent "
        f"neurons off, {kid[most]:.0f} with {TOP[-1]}{verdict}, {kid[control]:.0f} with random ones of the same layers."
    )
    return remarks


def _said(what: str) -> Callable[[int, int | None], None]:
    def progress(done: int, total: int | None) -> None:
        print(f"\r{what} {done}/{total}", end="\n" if done == total else "", flush=True)

    return progress


if __name__ == "__main__":
    work, output = sys.argv[1:] or ("work/evaluation", "docs/evaluation.md")
    main(Path(work), Path(output))
