"""What a finished mitigation hands over: maps of regions, all forms of the edit, and the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unmemorize.export import Exported, export_all
from unmemorize.mitigation import Announce, MitigationResult, unannounced
from unmemorize.pipelines import Model
from unmemorize.report._provenance import record_model_files
from unmemorize.report._regions import record_regions
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
    run: Run,
    model: Model,
    result: MitigationResult,
    *,
    single_file: Path | None = None,
    announce: Announce = unannounced,
) -> Delivery:
    """Write what people take home from a finished mitigation. The same call writes what is missing.

    Args:
        run: the mitigation.
        model: the unedited model.
        result: its verdicts.
        single_file: the model as one file, of which an edited copy is written, too.
        announce: opens the progress of each stage.
    """
    record_model_files(run, model)
    with announce("mapping memorized regions") as progress:
        reason = record_regions(run, model, progress)
    without_maps = f"The report shows no maps of regions: {reason}" if reason else ""
    exported = Exported({}, ())
    check = None
    if result.file is not None:
        with announce("writing the edited model"):
            exported = export_all(model, result.file, run.folder, single_file=single_file)
        with announce("drawing with the edited model") as progress:
            check = spot_check(run, model, result, progress)
    with announce("writing the report"):
        report = write_report(run)
    return Delivery(report, exported, without_maps, check)
