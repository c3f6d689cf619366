"""The command ``localize``."""

from unmemorize._bundled import usual_for
from unmemorize.cli._common import (
    bounded_rate,
    choose_statistics,
    choose_threshold,
    expected_threshold,
    planted_prompts,
    prompts_or_bundled,
    report_missing,
)
from unmemorize.cli._console import (
    console,
    make_table,
    print_answer,
    print_hint,
    print_line,
    show_progress,
)
from unmemorize.cli._execution_options import EngineOptions, NewRunOption, RunOption, ShardOption
from unmemorize.cli._model_options import (
    ModelOptions,
    PromptsOption,
    PublishedOption,
    StatisticsOption,
    TauOption,
    ThresholdOption,
)
from unmemorize.cli._profile import ProfileOption, profile_localizations
from unmemorize.cli._settings_options import CalibratedOptionsOf, OptionsOf
from unmemorize.detection import NoiseSettings, Threshold
from unmemorize.localization import (
    LocalizationRun,
    LocalizationSettings,
    localize_all,
    save_neurons,
    stream_localizations,
)
from unmemorize.neurons import NeuronFile
from unmemorize.runs import Run, open_run, refuse_other_run

NOT_RECORDED = "the record does not say, because it was imported."
"""Why a memorized prompt has no neurons, in runs that were read from published files."""


def command(
    *,
    run: RunOption,
    prompts: PromptsOption = None,
    statistics: StatisticsOption = None,
    threshold: ThresholdOption = None,
    tau: TauOption = None,
    published: PublishedOption = False,
    localization: OptionsOf[LocalizationSettings] = OptionsOf[LocalizationSettings](),
    noise: CalibratedOptionsOf[NoiseSettings] = CalibratedOptionsOf[NoiseSettings](),
    shard: ShardOption = None,
    new_run: NewRunOption = False,
    profile: ProfileOption = False,
    model: ModelOptions = ModelOptions(),
    workers: EngineOptions = EngineOptions(),
) -> None:
    """Find the neurons that carry the image of each memorized prompt (step 3).

    Candidates are neurons that respond unusually strongly to the prompt. Refinement keeps those
    that change the prediction more than ordinary neurons do. Prompts that detection does not call
    memorized get no neurons. The defaults are the paper's, except for the refinement and for
    prompts with a floor, see --criterion. The neurons of each prompt go to
    RUN/localizations.jsonl, and all of them together to RUN/neurons.json.
    """
    loaded = model.load()
    given = prompts_or_bundled(loaded, prompts, planted_prompts)
    noise_settings, detector = expected_threshold(
        loaded, threshold, tau, noise, published=published
    )
    # a given tau is meant for the paper's criterion
    bundled = {} if tau is not None else usual_for(loaded.pipe, "criterion")
    defaults = {"noise": noise_settings, **bundled}
    make_settings = localization.published if published else localization.settings
    settings = make_settings(**defaults)
    settings.refuse_many_steps()
    if not new_run:
        known = {"localization": settings, "detector": detector}
        refuse_other_run(run, loaded, LocalizationRun.kind, known)
    measured = choose_statistics(loaded, statistics, workers)
    limit = choose_threshold(loaded, threshold, tau, noise, workers, published=published)
    run_settings = LocalizationRun.of(loaded, settings, measured, limit)
    folder = open_run(run, loaded, given, run_settings, new=new_run)
    with show_progress("localize") as progress:
        tally = localize_all(
            folder,
            loaded,
            statistics=measured,
            threshold=limit,
            settings=settings,
            execution=workers.execution(progress, shard),
        )
    if not tally.done:
        print_answer(run=folder.folder, prompts=tally.total, done=0)
    else:
        file = save_neurons(folder, loaded, limit, settings)
        _print_summary(folder, file, limit, settings)
        if profile:
            profile_localizations(list(stream_localizations(folder)))
    report_missing(tally)
    if tally.complete and any(record.memorized for record in stream_localizations(folder)):
        print_hint("unmemorize generate", folder.folder, model.option)
    elif tally.complete:
        print_hint("unmemorize report", folder.folder)


def _print_summary(
    run: Run, file: NeuronFile, limit: Threshold, settings: LocalizationSettings
) -> None:
    level = settings.detection_level(limit.detect)
    print_line(
        f"{file.found['memorized']} of {file.found['prompts']} memorized "
        f"(tau = {level.tau:.4f} of {level.detector}; {bounded_rate(level)}): "
        f"{run.folder}/localizations.jsonl, neurons.json"
    )
    table = make_table("neurons", "initial", "score", "group", text="prompt")
    exhausted = 0
    memorized = []
    unexplained = []
    floors = unfiltered = 0
    for record in stream_localizations(run):
        if not record.memorized:
            continue
        memorized.append(
            {
                "prompt": record.prompt,
                "group": record.group,
                "neurons": record.neurons,
                "score": record.score,
                "theta_exhausted": record.theta_exhausted,
            }
        )
        exhausted += bool(record.theta_exhausted)
        floors += bool(record.floor)
        unfiltered += record.seeds_unfiltered
        if not record.neurons:
            unexplained.append(record)
        table.add_row(
            str(len(record.neurons)),
            str(len(record.initial)),
            ("" if record.score is None else f"{record.score:.3f}")
            + ("*" if record.theta_exhausted else ""),
            record.group,
            record.prompt,
        )
    if memorized:
        console.print(table)
    if exhausted:
        print_line(f"* {exhausted} prompt(s): theta exhausted, so copies may be left.")
    for record in unexplained:
        print_line(f"no neurons for {record.prompt!r}: {record.why_empty or NOT_RECORDED}")
    if floors:
        print_line(
            f"{floors} prompt(s) stay above tau = {limit.localize.tau:.4f} with all searched "
            "neurons off under the criterion unblocked: the criterion seeds was taken for them."
        )
    if unfiltered:
        tau = limit.localize.tau if settings.seed_threshold is None else settings.seed_threshold
        print_line(
            f"{unfiltered} prompt(s) have no seed above tau = {tau:.4f}: all of their seeds were "
            "taken."
        )
    print_answer(
        run=run.folder,
        prompts=file.found["prompts"],
        memorized=memorized,
        tau=level.tau,
        neurons=run.folder / "neurons.json",
    )
