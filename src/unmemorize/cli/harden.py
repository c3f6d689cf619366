"""The command ``harden``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators
from cyclopts.types import PositiveInt

from unmemorize._bundled import is_bundled
from unmemorize.audit import AuditInputs
from unmemorize.cli._common import generation_settings, print_exported
from unmemorize.cli._console import (
    console,
    make_table,
    print_answer,
    print_hint,
    print_line,
    show_progress,
)
from unmemorize.cli._edited import control_files, edit_in, prompts_of
from unmemorize.cli._execution_options import EngineOptions, NewRunOption, RunOption
from unmemorize.cli._instruments import InstrumentOptions
from unmemorize.cli._model_options import Flag, ModelOptions, print_what_is_edited
from unmemorize.cli.audit import print_forecast
from unmemorize.engines import silent
from unmemorize.export import CHECKPOINT, export_all
from unmemorize.hardening import (
    HardeningInputs,
    HardeningResult,
    HardeningSettings,
    forecast_hardening,
    harden_all,
    open_hardening,
)
from unmemorize.mitigation import OrdinaryCaptions


def command(
    edited: Path,
    /,
    *,
    run: RunOption,
    prompts: Path | None = None,
    references: Path | None = None,
    weights: str = "all",
    rank: PositiveInt | None = None,
    rounds: PositiveInt = HardeningSettings.rounds,
    training_steps: PositiveInt = HardeningSettings.steps,
    learning_rate: Annotated[float | None, Parameter(validator=validators.Number(gt=0))] = None,
    controls: Path | None = None,
    dry_run: Flag = False,
    instruments: InstrumentOptions = InstrumentOptions(),
    steps: PositiveInt | None = None,
    guidance: float | None = None,
    batch: PositiveInt = 10,
    new_run: NewRunOption = False,
    model: ModelOptions = ModelOptions(),
    workers: EngineOptions = EngineOptions(),
) -> None:
    """Train a model so that attacks no longer bring memorized images back.

    Each round looks for text embeddings that bring the images back from the current weights (L4),
    and then trains the weights: under these embeddings, the captions and without text towards what
    a model would predict had it never seen the images, and for ordinary captions to stay as they
    are. At the end, the captions and L4 judge the result, with random numbers of their own and also
    from starts that training has not seen. What they reach on images that the model was never
    trained on is the level of a copy. Ordinary images show the price. The run folder gets the
    trained model as a checkpoint, and a LoRA where one can hold it. The same command resumes.

    Args:
        edited: What tells the memorized prompts: a run folder of unmemorize mitigate or localize,
            or a neuron file or an edit file with --prompts. Its edit is not part of the result.
        prompts: Memorized prompts with their training images, for a file. A run folder and the
            bundled model bring their own.
        references: Folder of training images, see unmemorize evaluate --help.
        weights: Weights to train: all, cross-attention, or a pattern with * over paths of layers,
            such as mid_block.*.
        rank: Train a LoRA of this rank on the linear layers and convolutions among them.
        rounds: How often the weights are attacked and trained.
        training_steps: Training steps of a round for each memorized image.
        learning_rate: Learning rate (AdamW). The default is 1e-5, for the bundled model 2e-4, and
            with --rank ten times as much.
        controls: Folder of images that the model was never trained on, which are attacked in the
            trained model. The default are the photographs of this package.
        dry_run: Say what the run will take, and stop.
        steps: Number of denoising steps. The default is 50; the bundled model has its own.
        guidance: Scale of classifier-free guidance. The default is 7; the bundled model has its
            own.
        batch: Images per pass. It changes no image beyond rounding.
    """
    loaded = model.load()
    print_what_is_edited(loaded)
    chosen = prompts_of(loaded, edited, prompts, references)
    given = {} if learning_rate is None else {"rate": learning_rate}
    settings = HardeningSettings.of(
        loaded, weights=weights, rank=rank, rounds=rounds, steps=training_steps, **given
    )
    generation = generation_settings(loaded, batch, steps=steps, guidance=guidance)
    settings = replace(settings, audit=replace(settings.audit, generation=generation))
    captions = OrdinaryCaptions.of(loaded)
    inputs = HardeningInputs(
        audit=AuditInputs(
            edit=edit_in(loaded, edited),
            captions=captions.ordinary,
            descriptor=instruments.load_descriptor(bundled=is_bundled(loaded.pipe)),
            controls=control_files(controls),
            shipped=controls is None,
        ),
        keep=captions.keep,
        clip=instruments.load_clip(bundled=is_bundled(loaded.pipe)),
    )
    if dry_run:
        cost = forecast_hardening(loaded, settings, inputs, chosen)
        print_forecast(cost, "stage", "Fewer --rounds and --training-steps take less.")
        return
    opened = open_hardening(run, loaded, chosen, inputs, settings, new=new_run)
    execution = workers.execution(silent)
    result = harden_all(opened, loaded, inputs, execution=execution, announce=show_progress)
    assert result.file is not None  # it was made just now
    exported = export_all(loaded, result.file, opened.folder)
    print_line(result.headline, style="bold")
    for note in result.notes:
        print_line(note)
    _print_rounds(result)
    files = print_exported(exported)
    print_line(f"all attacks that judged: {opened.folder / 'audit' / 'audit.json'}")
    print_answer(
        result.to_json(),
        headline=result.headline,
        notes=result.notes,
        run=opened.folder,
        exported=files,
    )
    print_hint("unmemorize verify", opened.folder / CHECKPOINT, model.arguments)


def _print_rounds(result: HardeningResult) -> None:
    """Print how many images each round's attacks brought back, and what training reached."""
    table = make_table("round", "highest score", "error", "distance", "seconds")
    for number, outcome in enumerate(result.rounds, 1):
        attacks = [attack for attack in result.attacks if attack.round == number]
        seconds = outcome.seconds + sum(attack.seconds for attack in attacks)
        table.add_row(
            str(number),
            f"{max(max(attack.scores) for attack in attacks):.2f}",
            f"{outcome.forgotten:.3f}",
            f"{outcome.ordinary:.4f}",
            f"{seconds:.0f}",
        )
    console.print(table)
