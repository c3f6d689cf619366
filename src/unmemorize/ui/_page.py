"""The page itself, with Gradio."""

from __future__ import annotations

import html
import logging
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

import gradio as gr

from unmemorize._errors import PromptError, UnmemorizeError
from unmemorize._neurons import Neurons
from unmemorize.ui._studio import Found, Probed, Studio

log = logging.getLogger(__name__)

THEME = gr.themes.Soft(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
"""With fonts of the visitor's machine, since others would be asked of the network."""
CSS = """
.gauge { position: relative; height: 2.2rem; border-radius: 8px; background: var(--background-fill-secondary); overflow: hidden; }
.gauge .bar { position: absolute; inset: 0 auto 0 0; background: #2e86ab; }
.gauge.hot .bar { background: #e4572e; }
.gauge .tau { position: absolute; top: 0; bottom: 0; width: 2px; background: var(--body-text-color); }
#probed .grid-container { grid-template-columns: repeat(4, 1fr) !important; }
.gauge-text { margin-top: .3rem; }
"""
_PROGRESS = gr.Progress()
"""What Gradio fills in for each request."""
_START = "Nothing is localized yet: type a prompt above and press Localize."


def build(studio: Studio) -> gr.Blocks:
    """The page for a model; every visitor has a state of their own, and one request uses the model at a time."""
    examples = [prompt.text for prompt in studio.prompts]
    with gr.Blocks(title="unmemorize", analytics_enabled=False) as page:
        found = gr.State(None)
        gr.Markdown(
            "# unmemorize\nHas the model memorized an image for this prompt, which neurons carry it, and what is left without them?"
        )
        with gr.Row():
            prompt = gr.Textbox(label="Prompt", lines=2, value=examples[0] if examples else "", scale=3, elem_id="prompt")
            example = gr.Dropdown(examples, label="Examples", value=None, scale=2, visible=bool(examples), elem_id="example")
        with gr.Row():
            images = gr.Slider(1, 8, value=2, step=1, label="Images (seeds)", elem_id="images")
            cancel = gr.Button("Cancel", elem_id="cancel")
        with gr.Tab("Probe", elem_id="probe-tab"):
            run_probe = gr.Button("Probe", variant="primary", elem_id="probe")
            gauge = gr.HTML(elem_id="gauge")
            verdict = gr.Markdown(elem_id="verdict")
            probed = gr.Gallery(label="Images of some seeds", columns=4, elem_id="probed", object_fit="contain", height=300)
        with gr.Tab("Localize", elem_id="localize-tab"):
            run_localize = gr.Button("Localize", variant="primary", elem_id="localize")
            said = gr.Markdown(_START, elem_id="said")
            off = gr.CheckboxGroup([], label="Neurons that are off", elem_id="off")
            scale = gr.Slider(-1, 1, value=0, step=0.05, label="What their outputs are multiplied by (0: off, 1: on)", elem_id="scale")
            compare = gr.Button("Compare", elem_id="compare")
            copied = gr.Markdown(elem_id="copied")
            with gr.Row():
                before = gr.Gallery(label="Before", columns=2, elem_id="before", object_fit="contain", height=300)
                after = gr.Gallery(label="With these neurons off", columns=2, elem_id="after", object_fit="contain", height=300)
        with gr.Tab("Export", elem_id="export-tab"):
            gr.Markdown("What is chosen in *Localize*, to take home. A neuron file can be loaded again here.")
            files = []
            with gr.Row():
                for name, key in (("neuron file", "neurons"), ("LoRA", "lora"), ("report", "report")):
                    with gr.Column():
                        button = gr.Button(f"Make {name}", elem_id=f"make-{key}")
                        files.append((button, gr.File(label=name, interactive=False, height=120, elem_id=f"file-{key}"), key))
            upload = gr.File(label="Load a neuron file", file_types=[".json"], height=160, elem_id="upload")

        example.input(lambda text: text, example, prompt, show_progress="hidden")

        def do_probe(text: str, count: int, progress: gr.Progress = _PROGRESS) -> tuple[str, str, list[Any]]:
            progress(0.1, desc="looking at the first denoising step, then making images")
            answer = studio.probe(text, int(count))
            return _gauge(answer, studio.threshold.tau), answer.verdict, list(answer.images)

        def do_localize(text: str, count: int, progress: gr.Progress = _PROGRESS) -> tuple[Any, ...]:
            progress(0.1, desc="searching neurons")
            answer = studio.localize(text)
            return show(answer, int(count), progress)

        def show(answer: Found, count: int, progress: gr.Progress) -> tuple[Any, ...]:
            names = list(answer.neurons)
            if not names:
                return answer, "This prompt is not memorized, so there are no neurons to switch off.", _choices([]), "", [], []
            progress(0.6, desc="making images with and without them")
            made = studio.compare(answer.prompt, answer.localization.neurons, 0.0, count)
            warning = (
                " The threshold could not be reached even with all candidates off: the copy may survive."
                if answer.localization.floor
                else ""
            )
            text = f"{len(names)} neuron{'s' if len(names) > 1 else ''} found.{warning}"
            return answer, text, _choices(names), made.sentence, list(made.before), list(made.after)

        def do_compare(
            answer: Found | None, names: list[str], by: float, count: int, progress: gr.Progress = _PROGRESS
        ) -> tuple[str, list[Any], list[Any]]:
            progress(0.1, desc="making images")
            made = studio.compare(_localized(answer).prompt, _chosen(answer, names), by, int(count))
            return made.sentence, list(made.before), list(made.after)

        def do_load(path: str | None, text: str, count: int, progress: gr.Progress = _PROGRESS) -> tuple[Any, ...]:
            if path is None:
                return tuple(gr.skip() for _ in range(6))
            progress(0.1, desc="reading the file")
            return show(studio.load(path, text), int(count), progress)

        def maker(key: str) -> Callable[..., str]:
            def make(answer: Found | None, names: list[str], by: float, count: int, progress: gr.Progress = _PROGRESS) -> str:
                progress(0.1, desc="writing")
                known = _localized(answer)
                if key == "report":
                    return str(studio.report(known, int(count)))
                return str((studio.neuron_file if key == "neurons" else studio.lora)(known, _chosen(known, names), by))

            return make

        shown = [found, said, off, copied, before, after]
        one = {"concurrency_limit": 1, "concurrency_id": "model"}
        events = [
            run_probe.click(_told(do_probe), [prompt, images], [gauge, verdict, probed], **one),
            prompt.submit(_told(do_probe), [prompt, images], [gauge, verdict, probed], **one),
            run_localize.click(_told(do_localize), [prompt, images], shown, **one),
            compare.click(_told(do_compare), [found, off, scale, images], [copied, before, after], **one),
            upload.upload(_told(do_load), [upload, prompt, images], shown, **one),
            *(button.click(_told(maker(key)), [found, off, scale, images], file, **one) for button, file, key in files),
        ]
        cancel.click(None, cancels=events)
    return page


def _told(work: Callable[..., Any]) -> Callable[..., Any]:
    """Errors become a sentence on the page."""

    @wraps(work)
    def told(*arguments: Any, **named: Any) -> Any:
        try:
            return work(*arguments, **named)
        except UnmemorizeError as problem:
            raise gr.Error(html.escape(str(problem)), print_exception=False) from problem
        except Exception as problem:
            log.exception("a request fails")
            raise gr.Error("This did not work; the terminal says why.", print_exception=False) from problem

    return told


def _gauge(answer: Probed, tau: float) -> str:
    """How similar the most similar seeds are, against tau; numbers only, nothing that a visitor typed."""
    score = max(0.0, min(1.0, answer.detection.score))
    kind = "gauge hot" if answer.detection.memorized else "gauge"
    bar = f'<div class="bar" style="width:{100 * score:.1f}%"></div><div class="tau" style="left:{100 * tau:.1f}%"></div>'
    text = f"highest similarity between two seeds {answer.detection.score:.3f}, tau {tau:.3f} (the line)"
    return f'<div class="{kind}" role="img" aria-label="{text}">{bar}</div><div class="gauge-text">{text}</div>'


def _choices(names: Sequence[str]) -> Any:
    return gr.CheckboxGroup(choices=list(names), value=list(names))


def _localized(answer: Found | None) -> Found:
    if answer is None:
        raise PromptError(_START)
    return answer


def _chosen(answer: Found | None, names: Sequence[str]) -> Neurons:
    known = _localized(answer).neurons
    return Neurons.of(known[name] for name in names if name in known)
