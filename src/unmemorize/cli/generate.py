"""The command ``generate``."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from unmemorize import guarding
from unmemorize._bundled import usual_for
from unmemorize._errors import AlarmError, RunError
from unmemorize._prompt_files import read_prompts
from unmemorize._prompts import Kind
from unmemorize.cli._common import report_missing
from unmemorize.cli._console import print_answer, print_hint, print_line, show_progress
from unmemorize.cli._execution_options import EngineOptions, RunArgument, ShardOption
from unmemorize.cli._model_options import Flag, ModelOptions
from unmemorize.cli._settings_options import OptionsOf
from unmemorize.comparison import ComparisonCaptions
from unmemorize.generation import (
    ORIGINAL,
    GenerationSettings,
    ImageFormat,
    ImageSet,
    NeuronSet,
    generate_all,
)
from unmemorize.guarding import Alarm, Guard, GuardThreshold, default_guard_threshold
from unmemorize.methods import generate_fitted, method_of
from unmemorize.pipelines import Model, sampling
from unmemorize.runs import Run

DEFAULT_SETS = [ORIGINAL, "refined"]


def command(
    run: RunArgument,
    /,
    *,
    neurons: Annotated[list[str] | None, Parameter(show_default=False)] = None,
    method: Annotated[list[str] | None, Parameter(show_default=False)] = None,
    only: Kind | None = None,
    prompts: Path | None = None,
    generation: OptionsOf[GenerationSettings] = OptionsOf[GenerationSettings](),
    guard: Flag = False,
    guard_threshold: Path | None = None,
    format: ImageFormat = "png",  # noqa: A002 -- the name of the option
    shard: ShardOption = None,
    model: ModelOptions = ModelOptions(),
    workers: EngineOptions = EngineOptions(),
) -> None:
    """Generate images of memorized prompts, with and without neurons (step 4).

    Every memorized prompt of the run gets images from the same seeds, with its own neurons
    switched off. They go to RUN/images/NAME, named by prompt and seed, with a record of how each
    was made. Here top-K means the K refined neurons that occur for most prompts. A group is all
    refined neurons of one prompt, and top-K-groups means the K groups that occur for most prompts.

    Args:
        neurons: Neurons to switch off: original (none), initial, refined, top-K, top-K-per-layer,
            top-K-groups, or a neuron file (.json). With random- in front, as many random other
            neurons are switched off instead. Repeat the option for several sets of images. The
            default is original and refined; with --method, original alone.
        method: Method of the field to draw under in place of neurons, NAME or NAME=STRENGTH, such
            as embedding=3: any that unmemorize compare knows. It is fitted to each prompt and
            says where it cannot be. Ordinary captions that edits leave alone are those of compare.
            Repeat the option for several sets of images.
        only: Use only the VM or only the TM prompts of the run. With --prompts, only their neurons
            are switched off.
        prompts: Generate other prompts than the memorized ones, each with the neurons of the whole
            run switched off, or with a method fitted to itself.
        guard: Stop copies in their first denoising step. Of prompts with an image that looks like a
            copy, no image is written, and the command ends with an error that counts them. The
            images go to RUN/images/NAME-guarded.
        guard_threshold: Threshold file of the guard, as unmemorize guard makes it. It implies
            --guard. The default is one over ordinary captions, which is made once and kept.
        format: File format of the images. Only png keeps every pixel.
    """
    guarded = guard or guard_threshold is not None
    if guarded and (workers.workers or workers.engine != "local"):
        raise RunError(
            "--guard watches the pipeline of this process, not those of workers. Leave --workers "
            "and --engine out."
        )
    methods = [method_of(name) for name in method or ()]
    if guarded and methods:
        raise RunError(
            "--guard judges predictions of the model as it is, and methods change them or run the "
            "denoiser themselves. Leave --guard or --method out."
        )
    names = neurons or ([ORIGINAL] if methods else DEFAULT_SETS)
    sets = [NeuronSet.parse(name) for name in names]
    if "scale" in generation.values and all(each.choice == ORIGINAL for each in sets):
        raise RunError(
            "--scale: no neurons are switched off, so it would do nothing. Name some by --neurons, "
            "or give a method its strength: --method NAME=STRENGTH."
        )
    if only and prompts and all(each.choice in (ORIGINAL, "file") for each in sets):
        raise RunError(
            f"--only {only}: it chooses among the prompts of the run, and no images of these are "
            "drawn here, nor with their neurons off. Leave --only or --prompts out."
        )
    loaded = model.load()
    folder = Run.load(run)
    settings = generation.settings(**usual_for(loaded.pipe, "steps", "guidance"))
    others = read_prompts(prompts) if prompts else []
    label = _label(prompts) if prompts else ""
    tallies = []
    with _guard(loaded, guard_threshold) if guarded else nullcontext() as watched:
        for neuron_set in sets:
            images = ImageSet(
                neurons=neuron_set,
                only=only,
                prompts=others,
                label=label,
                format=format,
                guard=_determining(watched.threshold) if watched is not None else None,
            )
            with show_progress(f"generate {images.name(settings.scale)}") as progress:
                tally = generate_all(
                    folder,
                    loaded,
                    images,
                    settings,
                    execution=workers.execution(progress, shard),
                )
            print_line(f"{neuron_set.name}: {tally.run.folder}")
            tallies.append(tally)
        for fitted in methods:
            with show_progress(f"generate {fitted.name} {fitted.strength:g}") as progress:
                tally = generate_fitted(
                    folder,
                    loaded,
                    fitted,
                    settings,
                    ordinary=ComparisonCaptions.of(loaded).kept,
                    only=only,
                    prompts=others,
                    label=label,
                    image_format=format,
                    execution=workers.execution(progress, shard),
                )
            print_line(f"{fitted.name} {fitted.strength:g}: {tally.run.folder}")
            tallies.append(tally)
    if watched is not None:
        stopped = [
            error
            for tally in tallies
            for error in tally.failed.values()
            if error.startswith(AlarmError.__name__)
        ]
        print_line(
            f"guard: {len(stopped)} of {sum(tally.total for tally in tallies)} prompts have an "
            "image that looked like a copy in its first step, and got none "
            f"(tau = {watched.threshold.tau:.4f})"
        )
    print_answer(
        run=run,
        sets=[
            {
                "folder": tally.run.folder,
                "prompts": tally.total,
                "done": tally.done,
                "failed": tally.failed,
            }
            for tally in tallies
        ],
    )
    report_missing(*tallies)
    if any(tally.total for tally in tallies):
        print_hint("unmemorize evaluate", run)
    else:
        print_line("None of these prompts is memorized, so there is nothing to draw.")
        print_hint("unmemorize report", run)


def _label(prompts: Path) -> str:
    """Return the name of a prompt file or of a folder with such files, also of "." and ".."."""
    return (prompts.resolve() if prompts.name in ("", "..") else prompts).stem


def _determining(threshold: GuardThreshold) -> dict[str, float]:
    """Return what determines which images of a model the guard lets pass."""
    return {"tau": threshold.tau, "timestep": threshold.timestep}


@contextmanager
def _guard(model: Model, path: Path | None) -> Iterator[Guard]:
    """Watch the calls of `generate_all`, and refuse prompts with an image that raises an alarm."""

    def refuse(alarm: Alarm) -> None:
        raise AlarmError(
            f"the guard has stopped an image that looks like a copy of a training image (score "
            f"{alarm.score:.3g}, above {alarm.tau:.3g})"
        )

    with sampling(model.pipe):
        if path is not None:
            threshold = GuardThreshold.load(path)
        else:
            with show_progress("guard") as progress:
                threshold = default_guard_threshold(model, progress=progress)
        with guarding.guard(model, threshold, on_alarm=refuse) as watched:
            yield watched
