"""The tab *Check a prompt*.

Modules of tabs are imported before the libraries of the model, which their work imports late.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import gradio as gr

from unmemorize.ui import _html as html
from unmemorize.ui._requests import Feedback, Requests, Values, Visit, shown

if TYPE_CHECKING:
    from unmemorize._prompts import Prompt
    from unmemorize.ui._check_prompt import Drawing
    from unmemorize.ui._switch_off import PromptNeurons


class PromptTab:
    """Is a prompt memorized, what does it draw, and what without its neurons?"""

    def __init__(self, requests: Requests) -> None:
        with gr.Tab("Check a prompt", elem_id="prompt-tab", render_children=True):
            self._prompt = gr.Textbox(
                label="Prompt", lines=2, max_lines=6, elem_id="prompt", submit_btn=False
            )
            self.examples = gr.Dropdown(
                [], label="Or choose an example", value=None, visible=False, elem_id="example"
            )
            self._images = gr.Slider(
                1, 8, value=2, step=1, label="Images to draw", elem_id="images"
            )
            self.guarded = gr.Checkbox(
                label="Guard: stop images that look like copies in their first step",
                visible=False,
                elem_id="guarded",
            )
            self.unguarded = gr.HTML(visible=False, elem_id="unguarded")
            self._button = gr.Button("Check", variant="primary", elem_id="check")
            self._feedback = Feedback("prompt")
            self._checked = gr.State(None)  # the Prompt of the verdict
            self._verdict = gr.HTML(visible=False, elem_id="verdict")
            self._drawn = gr.HTML(visible=False, elem_id="drawn")
            self._localize = gr.Button(
                "Find its neurons and draw without them", visible=False, elem_id="localize"
            )
            self._found = gr.State(None)  # the PromptNeurons of the prompt
            self._neurons = gr.HTML(visible=False, elem_id="neurons")
            with gr.Column(visible=False, elem_id="switches") as self._switches:
                with gr.Accordion("Switch them one by one", open=False):
                    self._off = gr.CheckboxGroup([], label="Neurons that are off", elem_id="off")
                    self._compare = gr.Button("Draw again", elem_id="compare")
                self._file = gr.DownloadButton("Download the neuron file", elem_id="neuron-file")
        self._wire(requests)

    def _wire(self, requests: Requests) -> None:
        buttons = [self._button, self._localize, self._compare]
        of_neurons = [self._neurons, self._switches, self._off, self._file]
        requests.wire(
            self._feedback,
            [self._button.click, self._prompt.submit],
            self.check,
            [self._prompt, self._images, self.guarded],
            [self._checked, self._verdict, self._drawn, self._found, self._localize, *of_neurons],
            buttons,
        )
        requests.wire(
            self._feedback,
            [self._localize.click],
            self.localize,
            [self._checked, self._images],
            [self._found, self._localize, *of_neurons],
            buttons,
        )
        requests.wire(
            self._feedback,
            [self._compare.click],
            self.compare,
            [self._found, self._off, self._images],
            of_neurons,
            buttons,
        )
        self._feedback.cancel.click(requests.cancel(self._feedback), queue=False)
        self.examples.input(
            lambda text: text, self.examples, self._prompt, queue=False, show_progress="hidden"
        )

    def check(self, visit: Visit, text: str, images: int, guarded: bool) -> Iterator[Values]:
        """Give the verdict on a prompt, then draw it."""
        studio = visit.studio
        from unmemorize.ui import _check_prompt as checking

        prompt = studio.prompt(text)
        with visit.stage("first step"):
            detection = checking.detect(studio, prompt)
        status = "memorized" if detection.memorized else "not memorized"
        score = html.gauge(detection)
        yield {
            self._checked: prompt,
            self._verdict: shown(
                html.verdict(status, checking.verdict(detection), prompt.text) + score
            ),
            self._drawn: "",
            self._localize: gr.update(visible=False),
            self._neurons: "",
            self._switches: gr.Column(visible=False),
        }
        level = None
        next_step = {self._localize: gr.update(visible=detection.memorized)}
        try:
            if guarded:
                with visit.stage("calibrating the guard, once for this model") as progress:
                    level = checking.guard_level(studio, progress)
            with visit.stage("drawing") as progress:
                drawing = checking.draw(studio, prompt, int(images), level, progress)
        except Exception:  # of the visitor's Cancel, too: the verdict stays
            yield next_step
            raise
        yield {self._drawn: shown(drawn(drawing)), **next_step}

    def localize(self, visit: Visit, prompt: Prompt, images: int) -> Iterator[Values]:
        """Find the neurons of the prompt, and draw without them."""
        studio = visit.studio
        from unmemorize.ui import _switch_off as switching

        with visit.stage("searching neurons") as progress:
            found = switching.localize(studio, prompt, progress)
        if not found.neurons:
            yield {self._neurons: shown(html.sentence(found.sentence))}
            return
        labels = list(found.labels)
        yield {
            self._found: found,
            self._off: gr.CheckboxGroup(choices=labels, value=labels),
            **self._compared(visit, found, labels, images),
            self._localize: gr.update(visible=False),
        }

    def compare(
        self, visit: Visit, found: PromptNeurons, off: Sequence[str], images: int
    ) -> Iterator[Values]:
        """Draw without the neurons that are checked."""
        yield self._compared(visit, found, off, images)

    def _compared(
        self, visit: Visit, found: PromptNeurons, off: Sequence[str], images: int
    ) -> Values:
        studio = visit.studio
        from unmemorize.ui import _switch_off as switching

        selected = found.select(off)
        with visit.stage("drawing") as progress:
            both = switching.compare(studio, found, selected, int(images), progress)
        content = html.sentence(f"{found.sentence} {len(selected)} off. {both.sentence}")
        if both.warning:
            content += html.problem(f"Warning: {both.warning}.")
        for title, images_of in (("before", both.before), ("without its neurons", both.after)):
            content += html.figures(title, [html.Figure(image, title) for image in images_of])
        return {
            self._neurons: shown(content),
            self._switches: gr.Column(visible=True),
            self._file: gr.DownloadButton(
                value=str(switching.save_neurons(studio, found, selected))
            ),
        }


def drawn(drawing: Drawing) -> str:
    """Return the images of a prompt, the training images first."""
    scores = iter(drawing.copies)
    pictures = [html.Figure(image, "training image") for image in drawing.training]
    for number, image in enumerate(drawing.images, 1):
        score = next(scores, None) if image is not None else None
        caption = f"image {number}" if score is None else f"image {number}, copy score {score:.2f}"
        pictures.append(html.Figure(image, caption))
    said = html.sentence(drawing.guard_in_words) if drawing.guard_in_words else ""
    return said + html.figures("images of the prompt", pictures)
