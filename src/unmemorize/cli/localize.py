"""The command ``localize``."""

from typing import Annotated

import typer
from rich.table import Table

from unmemorize import testbed
from unmemorize.cli._common import (
    file_or_default,
    is_bundled,
    stream_or_default,
    tell_of_the_rest,
    threshold_of,
)
from unmemorize.cli._console import console, progress_bar
from unmemorize.cli._model_options import (
    PromptsOption,
    StatisticsOption,
    ThresholdOption,
    takes_model,
)
from unmemorize.cli._options import (
    GuidanceOption,
    NewRunOption,
    ProtocolOption,
    RunOption,
    SeedOption,
    SeedsOption,
    ShardOption,
    TauOption,
    takes_engine,
)
from unmemorize.cli._profile import ProfileOption, profile_localizations
from unmemorize.engines import Engine, Execution
from unmemorize.localization import (
    Criterion,
    LocalizationRun,
    LocalizationSettings,
    RefinementMethod,
    localize_all,
    save_neurons,
    stream_localizations,
)
from unmemorize.neurons import NeuronFile
from unmemorize.pipelines import Model
from unmemorize.runs import Run, open_run
from unmemorize.statistics import Statistics

_DEFAULTS = LocalizationSettings()


@takes_engine
@takes_model
def command(
    pipe: Model,
    engine: Engine,
    run: RunOption,
    prompts: PromptsOption = None,
    statistics: StatisticsOption = None,
    threshold: ThresholdOption = None,
    criterion: Annotated[
        Criterion | None,
        typer.Option(
            help="What counts as still memorized: like the unblocked seed (paper), or seeds alike. "
            "[default: unblocked; the bundled model has its own]",
            show_default=False,
        ),
    ] = None,
    refinement: Annotated[
        RefinementMethod,
        typer.Option(
            help="How candidates are thinned out: by groups, or one by one in the paper's order (slower)."
        ),
    ] = _DEFAULTS.refinement,
    layers: Annotated[
        str, typer.Option(help="Value layers: default (down and middle blocks), all, or a pattern.")
    ] = _DEFAULTS.layers,
    theta: Annotated[
        float, typer.Option(help="z-score at which the initial selection starts.")
    ] = _DEFAULTS.theta,
    theta_step: Annotated[
        float, typer.Option(help="How much theta falls at a time.")
    ] = _DEFAULTS.theta_step,
    theta_floor: Annotated[float, typer.Option(help="Where theta stops.")] = _DEFAULTS.theta_floor,
    top_k: Annotated[
        int,
        typer.Option(
            min=0, help="k at first: the most active neurons of each layer are candidates too."
        ),
    ] = 0,
    no_theta: Annotated[
        bool, typer.Option("--no-theta", help="Select by activation only (ablation of the paper).")
    ] = False,
    no_top_k: Annotated[
        bool, typer.Option("--no-top-k", help="Select by z-score only (ablation of the paper).")
    ] = False,
    scale: Annotated[
        float, typer.Option(help="What switched-off outputs are multiplied by.")
    ] = _DEFAULTS.scale,
    tau: TauOption = None,
    seed_threshold: Annotated[
        float | None,
        typer.Option(
            help="Similarity above which a seed is kept. [default: tau]", show_default=False
        ),
    ] = None,
    initial_threshold: Annotated[
        float | None,
        typer.Option(
            help="Score at which the initial selection ends. [default: tau of the criterion]",
            show_default=False,
        ),
    ] = None,
    refinement_threshold: Annotated[
        float | None,
        typer.Option(
            help="Score below which neurons are switched on again. [default: tau of the criterion]",
            show_default=False,
        ),
    ] = None,
    relative_threshold: Annotated[
        float | None,
        typer.Option(
            help="Instead, how far scores may be from those with all candidates off, as a fraction; criterion unblocked only.",
            show_default=False,
        ),
    ] = None,
    seeds: SeedsOption = None,
    seed: SeedOption = None,
    protocol: ProtocolOption = None,
    guidance: GuidanceOption = None,
    shard: ShardOption = None,
    new_run: NewRunOption = False,
    profile: ProfileOption = False,
) -> None:
    """Step 3: find the neurons that carry the image of each memorized prompt.

    Candidates are neurons that answer unusually strongly to the prompt; those are kept without which the copy comes back. Prompts that
    are not memorized get no neurons. Defaults are the paper's, but for the refinement.
    """
    given = stream_or_default(pipe, prompts, lambda: [entry.prompt for entry in testbed.planted()])
    measured = Statistics.load(
        file_or_default(pipe, statistics, testbed.statistics_path, "statistics")
    )
    limit = threshold_of(
        pipe, threshold, tau, seeds=seeds, seed=seed, protocol=protocol, guidance=guidance
    )
    chosen = criterion or (
        testbed.defaults()["criterion"] if is_bundled(pipe) and tau is None else _DEFAULTS.criterion
    )
    settings = LocalizationSettings(
        noise=limit.settings,
        criterion=chosen,
        refinement=refinement,
        layers=layers,
        theta=theta,
        theta_step=theta_step,
        theta_floor=theta_floor,
        top_k=top_k,
        use_theta=not no_theta,
        use_top_k=not no_top_k,
        scale=scale,
        seed_threshold=seed_threshold,
        initial_threshold=initial_threshold,
        refinement_threshold=refinement_threshold,
        relative_threshold=relative_threshold,
    )
    config = LocalizationRun.of(pipe, settings, measured, limit)
    folder = open_run(run, pipe, given, config, new=new_run)
    with progress_bar("localize") as progress:
        tally = localize_all(
            folder,
            pipe,
            statistics=measured,
            threshold=limit,
            settings=settings,
            execution=Execution(engine=engine, shard=shard, progress=progress),
        )
    if tally.done:
        _show(folder, save_neurons(folder, pipe, limit, settings))
        if profile:
            profile_localizations(list(stream_localizations(folder)))
    tell_of_the_rest(tally)


def _show(run: Run, together: NeuronFile) -> None:
    table = Table("neurons", "initial", "score", "floor", "group", "prompt", pad_edge=False)
    for record in stream_localizations(run):
        if record.memorized:
            sizes = str(len(record.neurons)), str(len(record.initial))
            table.add_row(
                *sizes,
                f"{record.score:.3f}",
                "floor" if record.theta_exhausted else "",
                record.group,
                record.prompt,
            )
    console.print(table)
    found = together.found
    console.print(
        f"{found['memorized']} of {found['prompts']} memorized (tau = {found['tau']:.4f}): {run.folder}/localizations.jsonl, neurons.json"
    )
