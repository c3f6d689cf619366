"""The page: its head, its tabs, and the table of what happens when."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from unmemorize.ui._requests import Requests, Visit
from unmemorize.ui._tabs import ExportTab, LocalizeTab, ProbeTab, Values

if TYPE_CHECKING:
    from unmemorize.ui._studio import Studio

THEME = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
"""A theme with the fonts of the visitor's machine. Others would be loaded from the network."""
CSS = """
.gauge {
  position: relative;
  height: 2.2rem;
  border-radius: 8px;
  background: var(--background-fill-secondary);
  overflow: hidden;
}
.gauge .bar { position: absolute; inset: 0 auto 0 0; background: #2e86ab; }
.gauge.hot .bar { background: #e4572e; }
.gauge .tau {
  position: absolute;
  top: 0;
  bottom: 0;
  width: 2px;
  background: var(--body-text-color);
}
#probed .grid-container { grid-template-columns: repeat(4, 1fr) !important; }
.gauge-text { margin-top: .3rem; }
#off label { overflow-wrap: anywhere; white-space: normal; }
"""
_TITLE = (
    "# unmemorize\nHas the model memorized an image for this prompt, which neurons are involved, "
    "and what is left without them?"
)


class Head:
    """The top of the page: the prompt and how many images to make."""

    def __init__(self) -> None:
        gr.Markdown(_TITLE)
        self.state = gr.Markdown("Loading the model …", elem_id="state")
        with gr.Row():
            self.prompt = gr.Textbox(
                label="Prompt",
                lines=2,
                placeholder="Type a prompt, or choose an example.",
                scale=3,
                elem_id="prompt",
            )
            self.example = gr.Dropdown(
                [], label="Examples", value=None, scale=2, visible=False, elem_id="example"
            )
        with gr.Row():
            self.images = gr.Slider(
                1, 8, value=2, step=1, label="Images (seeds)", elem_id="images", scale=3
            )
            self.cancel = gr.Button("Cancel", elem_id="cancel", scale=2)

    def wait(self, visit: Visit) -> Values:
        """Show the examples once the model is loaded."""
        texts = [prompt.text for prompt in visit.studio.prompts]
        return {
            self.state: gr.Markdown(visible=False),
            self.example: gr.Dropdown(texts, visible=bool(texts)),
        }


@dataclass(frozen=True)
class _Event:
    """One row of the table of events.

    Args:
        trigger: the method of a component, such as ``button.click``.
        work: what to call, see `Requests.handler`.
        inputs, outputs: the components it reads and changes.
        shown_on: the output that shows progress and errors. By default every output does.
    """

    trigger: Callable[..., Any]
    work: Callable[..., Any]
    inputs: list[Any]
    outputs: list[Any]
    shown_on: Any = None


def build(loading: Future[Studio]) -> gr.Blocks:
    """Build the page.

    Each visitor has their own state. One request at a time uses the model.

    Args:
        loading: the studio, which may still be loading.
    """
    requests = Requests(loading)
    with gr.Blocks(title="unmemorize", analytics_enabled=False) as page:
        head = Head()
        probe = ProbeTab()
        localize = LocalizeTab()
        export = ExportTab()

        prompt, images = head.prompt, head.images
        chosen = [localize.state, localize.off, localize.factor]
        message = localize.message
        events = [
            _Event(probe.button.click, probe.probe, [prompt, images], probe.outputs, probe.images),
            _Event(prompt.submit, probe.probe, [prompt, images], probe.outputs, probe.images),
            _Event(
                localize.button.click,
                localize.localize,
                [prompt, localize.factor, images],
                localize.outputs,
                message,
            ),
            _Event(
                export.upload.upload,
                localize.load,
                [export.upload, prompt, images],
                localize.outputs,
                message,
            ),
            _Event(
                localize.compare_button.click,
                localize.compare,
                [*chosen, images],
                localize.comparison,
                localize.comparison[0],
            ),
            _Event(
                export.neuron_file_button.click,
                export.make_neuron_file,
                chosen,
                [export.neuron_file],
            ),
            _Event(export.lora_button.click, export.make_lora, chosen, [export.lora]),
            _Event(
                export.report_button.click,
                export.make_report,
                [localize.state, images],
                [export.report],
            ),
        ]
        running = [
            event.trigger(
                requests.handler(event.work),
                event.inputs,
                event.outputs,
                show_progress_on=event.shown_on,
                concurrency_limit=1,
                concurrency_id="model",
            )
            for event in events
        ]
        head.cancel.click(requests.cancel, cancels=running, queue=False)
        head.example.input(lambda text: text, head.example, prompt, show_progress="hidden")
        page.load(
            requests.handler(head.wait),
            None,
            [head.state, head.example],
            show_progress="hidden",
            concurrency_limit=None,  # all visitors wait at once
        )
    return page
