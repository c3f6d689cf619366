"""Measure the published table on the bundled model, with its ablations and controls.

    python benchmarks/evaluation.py [WORK OUTPUT]

Localizes, generates and evaluates in WORK (default work/evaluation), where an interrupted run is
resumed, and writes OUTPUT (default docs/evaluation.md). Takes about an hour on two cores.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import unmemorize as um
from evaluation_page import KINDS, MEASURES, Answers, QualityRow, page
from unmemorize.engines import Execution
from unmemorize.generation import ImageSet, NeuronSet, generate_all, image_sets, read_images
from unmemorize.localization import LocalizationRun, localize_all
from unmemorize.metrics import evaluate_all, quality_all, read_quality
from unmemorize.report import Cell, Table, read_results, summary_table
from unmemorize.runs import open_run

SCALES = (0.75, 0.5, 0.25, -0.25, -1.0)
TOP = (5, 10, 25, 50, 100)
"""Numbers of most frequent neurons that are off in ordinary images."""
CAPTIONS = 200
"""Captions that are not memorized."""
BATCH = 16
CAPTIONS_AGAIN = "captions-again"
"""The label of the captions' images under another seed, which the others are compared with."""


class Evaluation:
    """The bundled model with what every row of the table needs.

    Args:
        work: the folder for all runs.
        limit: prompts of each kind, and captions; None for all.
        images: images per prompt.
    """

    def __init__(self, work: Path, limit: int | None, images: int) -> None:
        defaults = um.testbed.defaults()
        self.work, self.limit = work, limit
        self.model = um.Model.load("testbed", dtype="float32")
        self.statistics = um.Statistics.load(um.testbed.statistics_path())
        self.threshold = um.Threshold.load(um.testbed.threshold_path())
        self.settings = um.LocalizationSettings(
            noise=self.threshold.settings, criterion=defaults["criterion"], refinement="greedy"
        )
        self.generation = um.GenerationSettings(
            images=images, steps=defaults["steps"], guidance=defaults["guidance"], batch=BATCH
        )
        self.descriptor = um.BundledDescriptor()
        self.alignment = um.ClipAlignment()
        planted = [entry.prompt for entry in um.testbed.planted() if entry.mode != "rare"]
        self.memorized = [
            prompt
            for kind in KINDS
            for prompt in [prompt for prompt in planted if prompt.kind == kind][:limit]
        ]
        self.captions = [
            um.Prompt(text, group="unmemorized")
            for text in um.testbed.captions("test")[: limit or CAPTIONS]
        ]

    def localize(
        self,
        name: str,
        prompts: Sequence[um.Prompt],
        threshold: um.Threshold,
        settings: um.LocalizationSettings,
    ) -> um.Run:
        """Localize prompts in a run of its own."""
        run_settings = LocalizationRun.of(self.model, settings, self.statistics, threshold)
        run = open_run(self.work / name, self.model, prompts, run_settings)
        localize_all(
            run,
            self.model,
            statistics=self.statistics,
            threshold=threshold,
            settings=settings,
            execution=printed(f"{name}: localize"),
        )
        return run

    def generate(self, run: um.Run, neurons: str, scale: float = 0.0) -> str:
        """Generate images of the run's memorized prompts. Returns the name of the set."""
        images = ImageSet(neurons=NeuronSet.parse(neurons))
        return self._generate(run, images, replace(self.generation, scale=scale))

    def generate_captions(self, run: um.Run, neurons: str, label: str, seed: int) -> str:
        """Generate one image of each caption. Returns the name of the set."""
        images = ImageSet(neurons=NeuronSet.parse(neurons), prompts=self.captions, label=label)
        return self._generate(run, images, replace(self.generation, images=1, seed=seed))

    def _generate(self, run: um.Run, images: ImageSet, settings: um.GenerationSettings) -> str:
        name = images.name(settings.scale)
        execution = printed(f"{run.folder.name}: generate {name}")
        generate_all(run, self.model, images, settings, execution)
        return name

    def measure(self, run: um.Run, *names: str) -> Table:
        """Evaluate sets of images, and summarize the run."""
        for name in names:
            evaluate_all(
                run,
                name,
                descriptor=self.descriptor,
                alignment=self.alignment,
                progress=printed(f"{run.folder.name}: {name}").progress,
            )
        return summary_table(read_results(run))


def main(work: Path, output: Path, limit: int | None = None, images: int = 4) -> None:
    """Run everything and write the page."""
    evaluation = Evaluation(work, limit, images)
    base = evaluation.localize(
        "base",
        [*evaluation.memorized, *evaluation.captions],
        evaluation.threshold,
        evaluation.settings,
    )
    sets = [
        evaluation.generate(base, name)
        for name in ("original", "refined", "initial", "random-refined", "random-initial")
    ]
    sets += [evaluation.generate(base, "refined", scale) for scale in SCALES]
    table = evaluation.measure(base, *sets)
    rows = {
        "all active": answers(table, "original", "before"),
        "NeMo (scale 0)": answers(table, "refined", "neurons off"),
        "without refinement": answers(table, "initial", "initial selection off"),
        "random neurons": answers(table, "refined", "random neurons off"),
        "random neurons, as many as initially": answers(
            table, "initial", "random neurons off, as many as initially"
        ),
    }
    for scale in SCALES:
        rows[f"scale {scale:g}"] = answers(table, "refined", f"refined-scale-{scale:g}")
    for name, (threshold, settings) in ablations(evaluation).items():
        rows[name] = ablation(evaluation, base, name, threshold, settings)
    quality = quality_of_captions(evaluation, base)
    text = page(base, table, rows, quality, evaluation.generation.images, evaluation.settings)
    output.write_text(text, encoding="utf-8")
    print(f"written: {output}")


def ablations(evaluation: Evaluation) -> dict[str, tuple[um.Threshold, um.LocalizationSettings]]:
    """Return the threshold and the settings of each ablation, by its name."""
    threshold, settings = evaluation.threshold, evaluation.settings
    noise = replace(threshold.settings, guidance=evaluation.generation.guidance)
    path = evaluation.work / "threshold-with-guidance.json"
    if not path.exists():
        um.calibrate_threshold(
            evaluation.model,
            um.testbed.captions("calibration")[: evaluation.limit],
            settings=noise,
            execution=printed("threshold with guidance"),
        ).save(path)
    return {
        "no top-k": (threshold, replace(settings, use_top_k=False)),
        "no theta": (threshold, replace(settings, use_theta=False)),
        "tau - 1 sd": (threshold.shifted(-1), settings),
        "tau + 2 sd": (threshold.shifted(2), settings),
        f"with guidance {noise.guidance:g}": (
            um.Threshold.load(path),
            replace(settings, noise=noise),
        ),
    }


def ablation(
    evaluation: Evaluation,
    base: um.Run,
    name: str,
    threshold: um.Threshold,
    settings: um.LocalizationSettings,
) -> Answers:
    """Localize, generate and measure under other settings."""
    run = evaluation.localize(name.replace(" ", ""), evaluation.memorized, threshold, settings)
    originals = run.folder / "images" / "original"
    if not originals.exists():
        # the base run begins with the same prompts, so its original images are the same
        shutil.copytree(base.folder / "images" / "original", originals)
    sets = [evaluation.generate(run, name) for name in ("original", "refined")]
    return answers(evaluation.measure(run, *sets), "refined", "neurons off")


def quality_of_captions(evaluation: Evaluation, run: um.Run) -> list[QualityRow]:
    """Compare ordinary images with neurons off to ordinary images of another seed."""
    seed = evaluation.generation.seed
    again = evaluation.generate_captions(run, "original", CAPTIONS_AGAIN, seed + 1)
    choices = ("original", *(f"top-{count}" for count in TOP), f"random-top-{TOP[-1]}")
    names = {
        choice: evaluation.generate_captions(run, choice, "captions", seed) for choice in choices
    }
    real = run.folder / "images" / again
    quality_all(run, list(names.values()), real, evaluation.alignment)
    table = evaluation.measure(run, *names.values())
    distances = {record.set: record for record in read_quality(run).values()}
    sets = image_sets(run)
    rows = []
    for choice, name in names.items():
        label = "before" if choice == "original" else choice
        rows.append(
            QualityRow(
                name=choice,
                neurons=len(read_images(sets[name])[0].neurons),
                distances=distances[name],
                same=cell(table, f"SSCD_Gen, {label}", "captions"),
                aligned=cell(table, f"A_CLIP, {label}", "captions"),
            )
        )
    return rows


def answers(table: Table, neurons: str, label: str) -> Answers:
    """Return the cells of a row, by kind of prompt.

    Args:
        table: the summary of a run.
        neurons: whose neurons are counted: "refined", "initial" or "original" (none).
        label: what summaries call the set of images.
    """
    counted = {"refined": "neurons, refined", "initial": "neurons, initial selection"}.get(neurons)
    return {
        kind: [
            cell(table, "detected as memorized", kind),
            cell(table, counted, kind) if counted else Cell(value=0),
            *(cell(table, f"{measure}, {label}", kind) for measure in MEASURES),
        ]
        for kind in KINDS
    }


def cell(table: Table, label: str, column: str) -> Cell:
    """Return one cell of a summary; an empty one if there is no such row."""
    row = next((row for row in table.rows if row.label == label), None)
    return row.cells[table.columns.index(column)] if row else Cell()


def printed(what: str) -> Execution:
    """Work in this process and print the progress."""

    def progress(done: int, total: int | None) -> None:
        print(f"\r{what} {done}/{total}", end="\n" if done == total else "", flush=True)

    return Execution(progress=progress)


if __name__ == "__main__":
    work, output = sys.argv[1:] or ("work/evaluation", "docs/evaluation.md")
    main(Path(work), Path(output))
