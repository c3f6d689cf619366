"""What ``--profile`` prints: where the denoiser samples and the time of a run went."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

from cyclopts import Parameter
from rich import box
from rich.table import Table

from unmemorize.cli._console import console, print_line
from unmemorize.cli._model_options import Flag
from unmemorize.detection import Detection
from unmemorize.localization import Localization

ProfileOption = Annotated[
    Flag, Parameter(help="Also print where the denoiser samples and the time went.")
]


def profile_localizations(found: Sequence[Localization]) -> None:
    """Print samples and time by stage, including those before a run was resumed."""
    stages = list(dict.fromkeys(stage for record in found for stage in record.spent))
    seconds = sum(record.seconds or 0.0 for record in found)
    work = sum(record.work or 0.0 for record in found)
    table = Table(
        "stage", "prompts", "samples", "share", "seconds", "share", box=box.SIMPLE, pad_edge=False
    )
    for stage in stages:
        spent = [record.spent[stage] for record in found if stage in record.spent]
        _row(
            table,
            stage,
            len(spent),
            sum(part.work for part in spent),
            work,
            sum(part.seconds for part in spent),
            seconds,
        )
    _row(table, "all", len(found), work, work, seconds, seconds)
    console.print(table)
    began = sum(record.evaluations or 0 for record in found)
    largest = max((record.recorded_bytes for record in found), default=0) / 1024**2
    print_line(
        f"{began} denoiser samples. Of their multiply-adds {work / max(1, began):.0%} ran; "
        f"the rest was replayed from recorded outputs of {largest:.0f} MiB at most."
    )


def profile_detections(found: Iterable[Detection]) -> None:
    """Print samples and time by the number of seeds that a prompt took."""
    spent: dict[int, tuple[int, int, float]] = {}
    for record in found:
        prompts, samples, seconds = spent.get(record.seeds, (0, 0, 0.0))
        spent[record.seeds] = prompts + 1, samples + record.evaluations, seconds + record.seconds
    prompts, samples, seconds = (
        (sum(column) for column in zip(*spent.values(), strict=True)) if spent else (0, 0, 0.0)
    )
    table = Table(
        "seeds", "prompts", "samples", "share", "seconds", "share", box=box.SIMPLE, pad_edge=False
    )
    for seeds, (some, taken, time) in sorted(spent.items()):
        _row(table, str(seeds), some, taken, samples, time, seconds)
    _row(table, "all", prompts, samples, samples, seconds, seconds)
    console.print(table)


def _row(
    table: Table,
    name: str,
    prompts: int,
    work: float,
    all_work: float,
    seconds: float,
    all_seconds: float,
) -> None:
    share = f"{work / max(all_work, 1e-9):.0%}"
    table.add_row(
        name,
        str(prompts),
        f"{work:.0f}",
        share,
        f"{seconds:.1f}",
        f"{seconds / max(all_seconds, 1e-9):.0%}",
    )
