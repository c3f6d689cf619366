"""The tabs of the page: each makes its components and knows what its requests return.

The work of a tab takes a `Visit` and the values of the inputs, in the order of the table of events
in `_page`. It returns new values by component. Components that are not named keep their values.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from unmemorize._errors import PromptError
from unmemorize.ui._answers import Comparison, ProbeAnswer, PromptNeurons
from unmemorize.ui._requests import Visit

if TYPE_CHECKING:
    from unmemorize.ui._studio import Studio

Values = dict[Any, Any]
"""New values by component."""

_NOTHING_YET = "Nothing is localized yet: type a prompt above and press Localize."
_STATUS_HEIGHT = 80
"""Pixels of a text on which progress and errors are shown."""
_GALLERY: dict[str, Any] = {"object_fit": "contain", "height": 300}


class ProbeTab:
    """Is the prompt memorized?"""

    def __init__(self) -> None:
        with gr.Tab("Probe", elem_id="probe-tab"):
            self.button = gr.Button("Probe", variant="primary", elem_id="probe")
            self._gauge = gr.HTML(elem_id="gauge")
            self._verdict = gr.Markdown(elem_id="verdict")
            self.images = gr.Gallery(
                label="Images of some seeds", columns=4, elem_id="probed", **_GALLERY
            )
        self.outputs = [self._gauge, self._verdict, self.images]

    def probe(self, visit: Visit, text: str, images: int) -> Values:
        """Probe the prompt and make some images of it."""
        studio = visit.studio
        progress = visit.stage("the first denoising step, then images")
        answer = studio.probe(text, int(images), progress)
        return {
            self._gauge: gauge(answer, studio.threshold.detect.tau),
            self._verdict: answer.verdict,
            self.images: list(answer.images),
        }


def gauge(answer: ProbeAnswer, tau: float) -> str:
    """Draw the highest similarity between seeds as a bar from 0 to 1, with a line at tau.

    The HTML holds numbers only, nothing that a visitor typed.
    """
    score = answer.detection.score
    css_class = "gauge hot" if answer.detection.memorized else "gauge"
    width = 100 * max(0.0, min(1.0, score))
    text = f"highest similarity between two seeds {score:.3f}, tau {tau:.3f} (the line)"
    return (
        f'<div class="{css_class}" role="img" aria-label="{text}">'
        f'<div class="bar" style="width:{width:.1f}%"></div>'
        f'<div class="tau" style="left:{100 * tau:.1f}%"></div></div>'
        f'<div class="gauge-text">{text}</div>'
    )


class LocalizeTab:
    """Which neurons are involved, and what do the images look like without them?"""

    def __init__(self) -> None:
        self.state = gr.State(None)  # the PromptNeurons of each visitor
        with gr.Tab("Localize", elem_id="localize-tab"):
            self.button = gr.Button("Localize", variant="primary", elem_id="localize")
            self.message = gr.Markdown(_NOTHING_YET, min_height=_STATUS_HEIGHT, elem_id="message")
            with gr.Column(visible=False, elem_id="controls") as self._controls:
                self._about = gr.Textbox(
                    label="For the prompt", interactive=False, max_lines=2, elem_id="about"
                )
                self.off = gr.CheckboxGroup([], label="Neurons that are off", elem_id="off")
                self.factor = gr.Slider(
                    -1,
                    1,
                    value=0,
                    step=0.05,
                    label="Factor for their outputs (0: off, 1: on)",
                    elem_id="factor",
                )
                self.compare_button = gr.Button("Compare", elem_id="compare")
                self._copies = gr.Markdown(min_height=_STATUS_HEIGHT, elem_id="copies")
                with gr.Row():
                    self._before = gr.Gallery(
                        label="All neurons on", columns=2, elem_id="before", **_GALLERY
                    )
                    self._after = gr.Gallery(
                        label="Neurons as chosen", columns=2, elem_id="after", **_GALLERY
                    )
        self.comparison = [self._copies, self._before, self._after]
        self.outputs = [
            self.state,
            self.message,
            self._controls,
            self._about,
            self.off,
            self.factor,
            *self.comparison,
        ]

    def localize(self, visit: Visit, text: str, factor: float, images: int) -> Values:
        """Search the neurons of the prompt and compare images with and without them."""
        progress = visit.stage("searching neurons", "denoiser samples")
        return self._show(visit, visit.studio.localize(text, progress), factor, int(images))

    def load(self, visit: Visit, path: str | None, text: str, images: int) -> Values:
        """Take the neurons of an uploaded file instead. Nothing happens when it is removed."""
        if path is None:
            return {self.state: gr.skip()}
        neurons = visit.studio.load(path, text)
        return self._show(visit, neurons, neurons.scale, int(images))

    def compare(
        self,
        visit: Visit,
        neurons: PromptNeurons | None,
        off: list[str],
        factor: float,
        images: int,
    ) -> Values:
        """Compare images with and without the neurons that are checked."""
        neurons = localized(neurons)
        progress = visit.stage("making images")
        selected = neurons.select(off)
        return self._shown(visit.studio.compare(neurons, selected, factor, int(images), progress))

    def _show(self, visit: Visit, neurons: PromptNeurons, factor: float, images: int) -> Values:
        values = {self.state: neurons, self.message: neurons.sentence}
        if not neurons.neurons:
            return {**values, self._controls: gr.Column(visible=False)}
        progress = visit.stage("making images")
        comparison = visit.studio.compare(neurons, neurons.neurons, factor, images, progress)
        labels = list(neurons.labels)
        return {
            **values,
            self._controls: gr.Column(visible=True),
            self._about: neurons.prompt.text,
            self.off: gr.CheckboxGroup(choices=labels, value=labels),
            self.factor: gr.Slider(min(-1.0, factor), max(1.0, factor), value=factor),
            **self._shown(comparison),
        }

    def _shown(self, comparison: Comparison) -> Values:
        warning = f"\n\n**Warning: {comparison.warning}.**" if comparison.warning else ""
        return {
            self._copies: comparison.sentence + warning,
            self._before: list(comparison.before),
            self._after: list(comparison.after),
        }


class ExportTab:
    """What can be taken home: a neuron file, a LoRA, the report."""

    def __init__(self) -> None:
        with gr.Tab("Export", elem_id="export-tab"):
            gr.Markdown(
                "The neuron file and the LoRA hold the neurons that are checked under *Localize*, "
                "with their factor. The report shows what was localized, with all of these "
                "neurons off. A neuron file can be loaded here again."
            )
            with gr.Row():
                self.neuron_file_button, self.neuron_file = _file("neuron file", "neurons")
                self.lora_button, self.lora = _file("LoRA", "lora")
                self.report_button, self.report = _file("report", "report")
            self.upload = gr.File(
                label="Load a neuron file", file_types=[".json"], height=160, elem_id="upload"
            )

    def make_neuron_file(self, visit: Visit, *choice: Any) -> str:
        """Write the checked neurons as a neuron file."""
        return self._export(visit, lambda studio: studio.neuron_file, *choice)

    def make_lora(self, visit: Visit, *choice: Any) -> str:
        """Write the checked neurons as a LoRA."""
        return self._export(visit, lambda studio: studio.lora, *choice)

    def make_report(self, visit: Visit, neurons: PromptNeurons | None, images: int) -> str:
        """Write the report of what was localized."""
        progress = visit.stage("writing", "sets of images")
        return str(visit.studio.report(localized(neurons), int(images), progress))

    def _export(
        self,
        visit: Visit,
        writer: Callable[[Studio], Callable[..., Path]],
        neurons: PromptNeurons | None,
        off: list[str],
        factor: float,
    ) -> str:
        neurons = localized(neurons)
        visit.stage("writing")
        return str(writer(visit.studio)(neurons, neurons.select(off), factor))


def _file(name: str, key: str) -> tuple[gr.Button, gr.File]:
    with gr.Column():
        button = gr.Button(f"Make {name}", elem_id=f"make-{key}")
        file = gr.File(label=name, interactive=False, height=120, elem_id=f"file-{key}")
    return button, file


def localized(neurons: PromptNeurons | None) -> PromptNeurons:
    """Return the neurons of a visitor.

    Raises:
        PromptError: there are none yet.
    """
    if neurons is None:
        raise PromptError(_NOTHING_YET)
    return neurons
