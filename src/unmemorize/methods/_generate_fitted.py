"""Images of a run's prompts under a method, next to those with neurons off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, is_dataclass

from diffusers import DiffusionPipeline

from unmemorize._errors import MitigationError
from unmemorize._files import hash_texts, to_json
from unmemorize._prompts import Kind, Prompt
from unmemorize.engines import Execution, Finished, UnitFunction
from unmemorize.generation import (
    GenerationSettings,
    ImageFormat,
    ImageSetRun,
    NeuronEdit,
    ShownPrompts,
    finished_images,
    generate_each,
    name_on,
    open_image_set,
    shown_prompts,
)
from unmemorize.localization import Localization
from unmemorize.methods._method import Mitigation, Suspect, refinement_of
from unmemorize.neurons import Neurons
from unmemorize.pipelines import Model
from unmemorize.runs import Run, Tally, drive


def generate_fitted(
    run: Run,
    pipe: DiffusionPipeline | Model,
    method: Mitigation,
    settings: GenerationSettings,
    *,
    ordinary: Sequence[str] = (),
    only: Kind | None = None,
    prompts: Sequence[Prompt] = (),
    label: str = "",
    image_format: ImageFormat = "png",
    execution: Execution | None = None,
) -> Tally:
    """Generate the images of a run's memorized prompts under a method, or resume it.

    The method is fitted to each prompt. The images go to RUN/images/NAME-STRENGTH, where
    `evaluate_all` measures them like those of `generate_all`.

    Args:
        run: a run with localizations.
        pipe: a loaded pipeline of the run's model.
        method: the method at one strength, see `method_of`.
        settings: how images are generated. The scale does not apply.
        ordinary: captions that an edit should leave alone.
        only, prompts, label: which prompts, see `ImageSet`. Other prompts have no localization.
        image_format: see `ImageSet.format`.
        execution: who does the work.

    Returns:
        How far the run of the images has come. A prompt fails with the reason of the method.

    Raises:
        RunError: nothing is localized, the run is of another model, its localization used the same
            seed, or the folder has images made under other settings.
        MitigationError: the method needs neurons of another refinement than the run has, or of
            other prompts.
    """
    model = Model.of(pipe)
    shown = shown_prompts(run, model, settings, only=only, prompts=prompts, label=label)
    found = {} if shown.are_others else shown.chosen
    _refuse_without_neurons(run, method, shown, found)
    images = open_image_set(
        run,
        model,
        shown,
        name_on(f"{method.name}-{method.strength:g}", label if prompts else ""),
        ImageSetRun(
            neurons="",
            on=label if prompts else "",
            format=image_format,
            shared=None,
            images=settings.images,
            seed=settings.seed,
            steps=settings.steps,
            guidance=settings.guidance,
            scale=0.0,
            method=_determining(method, ordinary),
        ),
    )
    items = [
        (
            index,
            (
                index,
                Suspect(
                    prompt=prompt,
                    localizations=(found[index],) if index in found else (),
                    ordinary=tuple(ordinary),
                    settings=settings,
                ),
            ),
        )
        for index, prompt in shown.prompts.items()
    ]
    task = FittedTask(method, image_format)
    return drive(images, model, task, items, shown.end, execution)


@dataclass(frozen=True)
class FittedTask:
    """Fitting a method and drawing under it as a `Task`. Its items are (index, suspect)."""

    method: Mitigation
    format: ImageFormat
    kind: str = ImageSetRun.kind
    size: int = 1

    def prepare(self, model: Model) -> UnitFunction:
        """See `Task`."""

        def work(items: Sequence[tuple[int, Suspect]]) -> list[Finished]:
            return [self._finished(model, index, suspect) for index, suspect in items]

        return work

    def _finished(self, model: Model, index: int, suspect: Suspect) -> Finished:
        change = self.method.fit(model, suspect)
        text = suspect.prompt.text
        (images,) = generate_each(model, [text], [change], settings=suspect.settings)
        neurons = change.neurons if isinstance(change, NeuronEdit) else Neurons()
        return finished_images(index, text, neurons, images, self.format)


def _determining(method: Mitigation, ordinary: Sequence[str]) -> dict[str, str | float | bool]:
    """Return what determines a method: its name, its settings and the captions it leaves alone."""
    settings = to_json(method) if is_dataclass(method) else {"strength": method.strength}
    return {"name": method.name, "ordinary": hash_texts(ordinary), **settings}


def _refuse_without_neurons(
    run: Run, method: Mitigation, shown: ShownPrompts, found: Mapping[int, Localization]
) -> None:
    needed = refinement_of(method)
    lacking = [
        prompt.text
        for index, prompt in shown.prompts.items()
        if index not in found or found[index].refinement != needed
    ]
    if needed and lacking:
        raise MitigationError(
            f"{method.name}: it needs neurons of refinement {needed}, which {run.folder} does not "
            f"have for {lacking[0][:60]!r}. Localize this prompt into another folder: "
            f"unmemorize localize --refinement {needed}"
        )
