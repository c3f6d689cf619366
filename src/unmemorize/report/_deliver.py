"""What a finished mitigation hands over: all forms of the edit, and what the report shows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffusers import DiffusionPipeline

from unmemorize.export import Exported, export_all
from unmemorize.mitigation import Announce, MitigationResult, unannounced
from unmemorize.pipelines import Model
from unmemorize.report._regions import record_regions
from unmemorize.report._reproduced import record_reproduced
from unmemorize.report._spot_check import SpotCheck, spot_check
from unmemorize.report._write import write_report
from unmemorize.runs import Run


@dataclass(frozen=True)
class Delivery:
    """What a mitigation handed over.

    Args:
        report: the page of the report.
        exported: the edit in its forms.
        without_maps: a sentence on why the report shows no maps of regions; empty where it does.
        spot_check: whether the edited model draws what was certified; None where none is written.
    """

    report: Path
    exported: Exported
    without_maps: str
    spot_check: SpotCheck | None


def deliver(
    run: Run | str | Path,
    pipe: DiffusionPipeline | Model,
    *,
    single_file: str | Path | None = None,
    announce: Announce = unannounced,
) -> Delivery:
    """Write what people take home from a finished mitigation: the edited model and the report.

    The run folder gets the edited model as a checkpoint and as LoRA files, maps of where images are
    memorized, how much of each training image is shown again, a check that the written model draws
    what was certified, and the report. The same
    call writes only what is missing, and the report again.

    Args:
        run: a finished mitigation, or its folder.
        pipe: the unedited model.
        single_file: the model as one file, of which an edited copy is written, too.
        announce: opens the progress of each stage by its title.

    Raises:
        RunError: the mitigation is not finished, or is of another model.
        ExportError: the edited model cannot be written.
        MetricError: an image of the run is missing or damaged.

    Examples:
        >>> import unmemorize as um
        >>> pipe = um.load_pipeline("testbed")
        >>> prompts = [entry.prompt for entry in um.testbed.planted()[:4]]
        >>> result = um.mitigate(pipe, prompts, folder="run")  # doctest: +SKIP
        >>> um.deliver("run", pipe).report  # doctest: +SKIP
        PosixPath('run/report.html')
    """
    run, model = Run.of(run), Model.of(pipe)
    result = MitigationResult.load(run)
    run.refuse(
        run.manifest.contradictions({}, {"fingerprint": model.fingerprint}),
        "give the model that it was made with",
    )
    with announce("mapping memorized regions") as progress:
        reason = record_regions(run, model, progress)
    with announce("comparing with training images") as progress:
        record_reproduced(run, progress)
    without_maps = f"The report shows no maps of regions: {reason}" if reason else ""
    exported = Exported({}, ())
    check = None
    if result.file is not None:
        source = None if single_file is None else Path(single_file)
        with announce("writing the edited model"):
            exported = export_all(model, result.file, run.folder, single_file=source)
        with announce("drawing with the edited model") as progress:
            check = spot_check(run, model, result, progress)
    with announce("writing the report"):
        report = write_report(run)
    return Delivery(report, exported, without_maps, check)
