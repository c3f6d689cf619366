"""What the commands share: the options that load a model, progress bars, and tables on screen."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from diffusers import DiffusionPipeline
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table as ScreenTable
from rich.text import Text

from unmemorize import testbed
from unmemorize._errors import PromptError, ThresholdError
from unmemorize._model import Model, load_pipeline
from unmemorize._progress import Progress
from unmemorize._prompts import Prompt, read_prompts
from unmemorize._similarity import NoiseSettings, Protocol
from unmemorize._threshold import Threshold
from unmemorize._value_layers import name_value_layers
from unmemorize.metrics import ClipAlignment, Descriptor
from unmemorize.report import Cell, Table, Truth, read_results, summary_table
from unmemorize.runs import Run, evaluate_all, image_sets

console = Console(markup=False, highlight=False)
errors = Console(stderr=True)
_WIDE = 130
"""Columns of a terminal from which on a summary has each figure on one line."""

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, made by unmemorize localize.", show_default=False)]
RunOption = Annotated[
    Path, typer.Option("--run", "-o", help="Run folder; the same command again does only what is missing.", show_default=False)
]
PromptsOption = Annotated[
    Path | None,
    typer.Option(help="Prompts: .txt, .csv, .jsonl or .parquet. With --model testbed by default its own.", show_default=False),
]
StatisticsOption = Annotated[
    Path | None, typer.Option(help="From unmemorize statistics. With --model testbed by default its own.", show_default=False)
]
ThresholdOption = Annotated[
    Path | None, typer.Option(help="From unmemorize threshold. With --model testbed by default its own.", show_default=False)
]
TauOption = Annotated[
    float | None,
    typer.Option(help="A known threshold instead, such as 0.428 of the paper for Stable Diffusion v1.4.", show_default=False),
]
SeedsOption = Annotated[int | None, typer.Option(min=2, help="Initial noises per prompt. [default: as calibrated; 10]", show_default=False)]
SeedOption = Annotated[int | None, typer.Option(help="Of the generator that draws them. [default: as calibrated; 1]", show_default=False)]
ProtocolOption = Annotated[
    Protocol | None,
    typer.Option(help="Which of the first two timesteps is evaluated. [default: as calibrated; upstream]", show_default=False),
]
GuidanceOption = Annotated[
    float | None, typer.Option(help="Classifier-free guidance; 0 is none. [default: as calibrated; 0]", show_default=False)
]


def _loading_options(
    model: Annotated[str, typer.Option("--model", "-m", help="Hub id, diffusers folder, or testbed (the bundled model).")] = "testbed",
    device: Annotated[str, typer.Option(help="auto (CUDA, MPS or CPU), or a torch device such as cuda:1.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto (float16 on CUDA, else float32), float32, float16 or bfloat16.")] = "auto",
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of the Hub.", show_default=False)] = None,
    variant: Annotated[str | None, typer.Option(help="Weight variant, such as fp16.", show_default=False)] = None,
    local_files_only: Annotated[bool, typer.Option("--local-files-only", help="Never ask the Hub.")] = False,
    value_layers: Annotated[
        str | None,
        typer.Option(help="Pattern with * over the value layers' paths, for an architecture that is not known.", show_default=False),
    ] = None,
) -> DiffusionPipeline:
    name_value_layers(value_layers)
    return load_pipeline(model, device=device, dtype=dtype, revision=revision, variant=variant, local_files_only=local_files_only)


def takes_model(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that load a model, in place of its first parameter ``pipe``; it is called with the loaded pipeline.

    An option that the command declares itself, such as ``model`` as an argument, takes the place of the common one, and it gets it, too.
    """
    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    loading = list(inspect.signature(_loading_options, eval_str=True).parameters.values())

    def run(**arguments: Any) -> None:
        options = {parameter.name: arguments[parameter.name] for parameter in loading}
        command(_loading_options(**options), **{parameter.name: arguments[parameter.name] for parameter in own})

    named = {parameter.name for parameter in own}
    common = [parameter for parameter in loading if parameter.name not in named]
    parameters = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *common)]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return run


def is_bundled(pipe: DiffusionPipeline) -> bool:
    """Whether a pipeline was loaded from the bundled model."""
    return Path(pipe.config.get("_name_or_path") or "") == testbed.path()


def prompts_or_default(pipe: DiffusionPipeline, path: Path | None, default: Callable[[], list[Prompt]]) -> list[Prompt]:
    """The prompts of a file, or for the bundled model its own.

    Raises:
        PromptError: there is no file and the model is another one.
    """
    if path is not None:
        return read_prompts(path)
    if not is_bundled(pipe):
        raise PromptError("no prompts given. Name a prompt file with --prompts.")
    return default()


def file_or_default(pipe: DiffusionPipeline, path: Path | None, default: Callable[[], Path], option: str) -> Path:
    """A file given by an option, or for the bundled model its own.

    Raises:
        PromptError: there is none and the model is another one.
    """
    if path is not None:
        return path
    if not is_bundled(pipe):
        raise PromptError(f"no {option} given. Make it with unmemorize {option}, then name it with --{option}.")
    return default()


def threshold_of(
    pipe: DiffusionPipeline,
    path: Path | None,
    tau: float | None,
    *,
    seeds: int | None,
    seed: int | None,
    protocol: Protocol | None,
    guidance: float | None,
) -> Threshold:
    """The threshold of a file, or a known one for the noise settings given; those must be the file's own.

    Raises:
        ThresholdError: the threshold is another model's, was calibrated under other settings, or both ways are asked for.
    """
    options = {"seeds": seeds, "seed": seed, "protocol": protocol, "guidance": guidance}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if tau is not None:
        if path is not None:
            raise ThresholdError("both --tau and --threshold are given. Use one of them.")
        return Threshold.given(pipe, tau, NoiseSettings(**given))
    threshold = Threshold.load(file_or_default(pipe, path, testbed.threshold_path, "threshold"))
    threshold.check(Model(pipe), replace(threshold.settings, **given))
    return threshold


def is_run_of_bundled(run: Run) -> bool:
    """Whether a run is one of the bundled model."""
    return bool(run.config.get("fingerprint") == Threshold.load(testbed.threshold_path()).fingerprint)


def known_neurons(run: Run) -> Truth | None:
    """The ground truth, when a run is one of the bundled model."""
    return {entry.prompt.text: entry.neurons for entry in testbed.planted()} if is_run_of_bundled(run) else None


@contextmanager
def progress_bar(title: str) -> Iterator[Progress]:
    """A bar on the terminal (on standard error, so that output can be piped), as the callback that the library takes."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Bar(*columns, console=errors) as bar:
        task = bar.add_task(title, total=None)

        def update(done: int, total: int | None) -> None:
            bar.update(task, completed=done, total=total)

        yield update


def evaluate_and_print(
    run: Run, *, descriptor: Descriptor, alignment: ClipAlignment | None, references: Mapping[int, Sequence[Path]] | None = None
) -> None:
    """Evaluate all images of a run, and show the summary on screen, in RUN/metrics.json and RUN/metrics.csv."""
    for name in image_sets(run):
        with progress_bar(f"evaluate {name}") as progress:
            evaluate_all(run, name, descriptor=descriptor, alignment=alignment, references=references, progress=progress)
    table = summary_table(read_results(run), known_neurons(run))
    run.write("metrics.json", table.to_json())
    run.write("metrics.csv", table.to_csv())
    _print_table(table)


def _print_table(table: Table) -> None:
    _print_narrow(table) if console.width < _WIDE else _print_wide(table)
    for note in table.notes:
        console.print(note, style="dim")


def _print_wide(table: Table) -> None:
    screen = ScreenTable(box=box.SIMPLE, padding=(0, 1), pad_edge=False)
    screen.add_column("", overflow="fold")
    for column in table.columns:
        screen.add_column(column, overflow="fold", min_width=10)
    by = ""
    for row in table.rows:
        if row.by != by:
            by = row.by
            screen.add_row(Text(f"by {by}", style="dim italic") if by else "")
        screen.add_row(row.label, *(_cell(cell, narrow=False) for cell in row.cells))
    console.print(screen)


def _print_narrow(table: Table) -> None:
    """Each label on a line of its own, above its figures."""
    width = console.width // len(table.columns) - 1

    def print_line(cells: Iterable[Text]) -> None:
        line = ScreenTable.grid(padding=(0, 1, 0, 0))
        for _ in table.columns:
            line.add_column(width=width, overflow="fold")
        line.add_row(*cells)
        console.print(line)

    print_line(Text(column, style="bold") for column in table.columns)
    by = ""
    for row in table.rows:
        if row.by != by:
            by = row.by
            console.print(f"\nby {by}" if by else "", style="dim italic")
        console.print(row.label, style="bold")
        print_line(_cell(cell, narrow=True) for cell in row.cells)


def _cell(cell: Cell, narrow: bool) -> Text:
    """The figure, and below it the 95 % interval."""
    figure = cell.figure.replace(" ± ", "±").replace(" (", "\n(") if narrow else cell.figure
    interval = cell.interval.replace(" to ", "–") if narrow else cell.interval
    return Text(figure or "-") + (Text(f"\n{interval}", style="dim") if interval else Text())
