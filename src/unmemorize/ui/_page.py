"""The page itself, with Gradio."""

from __future__ import annotations

import html
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future
from functools import wraps
from threading import Event
from typing import TYPE_CHECKING, Any

import gradio as gr

from unmemorize._errors import PromptError, UnmemorizeError
from unmemorize._progress import Progress
from unmemorize.ui._answers import Found, Probed

if TYPE_CHECKING:
    from unmemorize.ui._studio import Studio

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
#off label { overflow-wrap: anywhere; white-space: normal; }
"""
_GALLERY: dict[str, Any] = {"object_fit": "contain", "height": 300}
_PROGRESS = gr.Progress()
"""What Gradio fills in for each request."""
_LOADING = "Loading the model …"
_START = "Nothing is localized yet: type a prompt above and press Localize."


class _CancelledError(Exception):
    """The visitor pressed Cancel."""


class _Visit:
    """One request: shows how far its work is, and ends it when the visitor has cancelled, which Gradio would not."""

    def __init__(self, progress: gr.Progress) -> None:
        self.cancelled = Event()
        self._progress = progress

    def wait(self, loading: Future[Studio]) -> Studio:
        """The model, once it is loaded."""
        if not loading.done():
            self._progress(0.0, desc="loading the model")
        return loading.result()

    def stage(self, what: str, unit: str = "steps") -> Progress:
        """What a part of the work is to call."""
        self._progress(0.0, desc=what)

        def report(done: int, total: int | None) -> None:
            if self.cancelled.is_set():
                raise _CancelledError
            self._progress((done, total), desc=what, unit=unit)

        return report


class _Visits:
    """The last request of each visitor."""

    def __init__(self) -> None:
        self._last: dict[str | None, _Visit] = {}

    def open(self, request: gr.Request, progress: gr.Progress) -> _Visit:
        """Begin a request."""
        visit = self._last[request.session_hash] = _Visit(progress)
        return visit

    def cancel(self, request: gr.Request) -> None:
        """End what the visitor waits for."""
        if visit := self._last.get(request.session_hash):
            visit.cancelled.set()


def build(loading: Future[Studio]) -> gr.Blocks:
    """The page for a model, which may still be loading; every visitor has a state of their own, and one request uses it at a time."""
    visits = _Visits()
    with gr.Blocks(title="unmemorize", analytics_enabled=False) as page:
        found = gr.State(None)
        gr.Markdown(
            "# unmemorize\nHas the model memorized an image for this prompt, which neurons carry it, and what is left without them?"
        )
        state = gr.Markdown(_LOADING, elem_id="state")
        with gr.Row():
            prompt = gr.Textbox(
                label="Prompt",
                lines=2,
                placeholder="Type a prompt, or choose an example.",
                scale=3,
                elem_id="prompt",
            )
            example = gr.Dropdown(
                [], label="Examples", value=None, scale=2, visible=False, elem_id="example"
            )
        with gr.Row():
            images = gr.Slider(
                1, 8, value=2, step=1, label="Images (seeds)", elem_id="images", scale=3
            )
            cancel = gr.Button("Cancel", elem_id="cancel", scale=2)
        with gr.Tab("Probe", elem_id="probe-tab"):
            run_probe = gr.Button("Probe", variant="primary", elem_id="probe")
            gauge = gr.HTML(elem_id="gauge")
            verdict = gr.Markdown(elem_id="verdict")
            probed = gr.Gallery(
                label="Images of some seeds", columns=4, elem_id="probed", **_GALLERY
            )
        with gr.Tab("Localize", elem_id="localize-tab"):
            run_localize = gr.Button("Localize", variant="primary", elem_id="localize")
            said = gr.Markdown(_START, elem_id="said")
            about = gr.Textbox(
                label="For the prompt",
                interactive=False,
                visible=False,
                max_lines=2,
                elem_id="about",
            )
            off = gr.CheckboxGroup([], label="Neurons that are off", elem_id="off")
            scale = gr.Slider(
                -1,
                1,
                value=0,
                step=0.05,
                label="What their outputs are multiplied by (0: off, 1: on)",
                elem_id="scale",
            )
            compare = gr.Button("Compare", elem_id="compare")
            copied = gr.Markdown(elem_id="copied")
            with gr.Row():
                before = gr.Gallery(label="All neurons on", columns=2, elem_id="before", **_GALLERY)
                after = gr.Gallery(
                    label="Neurons as chosen", columns=2, elem_id="after", **_GALLERY
                )
        with gr.Tab("Export", elem_id="export-tab"):
            gr.Markdown(
                "Neuron file and LoRA hold the neurons as chosen in *Localize*, with their factor. The report shows what was localized, "
                "with all neurons that were found off. A neuron file can be loaded again here."
            )
            files = []
            with gr.Row():
                for name, key in (
                    ("neuron file", "neurons"),
                    ("LoRA", "lora"),
                    ("report", "report"),
                ):
                    with gr.Column():
                        button = gr.Button(f"Make {name}", elem_id=f"make-{key}")
                        files.append(
                            (
                                button,
                                gr.File(
                                    label=name, interactive=False, height=120, elem_id=f"file-{key}"
                                ),
                                key,
                            )
                        )
            upload = gr.File(
                label="Load a neuron file", file_types=[".json"], height=160, elem_id="upload"
            )

        example.input(lambda text: text, example, prompt, show_progress="hidden")

        def do_wait() -> tuple[Any, Any]:
            known = [prompt.text for prompt in loading.result().prompts]
            return gr.Markdown(visible=False), gr.Dropdown(known, visible=bool(known))

        def do_probe(
            text: str, count: int, request: gr.Request, progress: gr.Progress = _PROGRESS
        ) -> tuple[str, str, list[Any]]:
            visit = visits.open(request, progress)
            studio = visit.wait(loading)
            answer = studio.probe(
                text, int(count), visit.stage("the first denoising step, then images")
            )
            return _gauge(answer, studio.threshold.tau), answer.verdict, list(answer.images)

        def do_localize(
            text: str, by: float, count: int, request: gr.Request, progress: gr.Progress = _PROGRESS
        ) -> tuple[Any, ...]:
            visit = visits.open(request, progress)
            answer = visit.wait(loading).localize(
                text, visit.stage("searching neurons", "denoiser samples")
            )
            return show(answer, by, int(count), visit)

        def show(answer: Found, by: float, count: int, visit: _Visit) -> tuple[Any, ...]:
            names, prompt = list(answer.named), gr.Textbox(answer.prompt.text, visible=True)
            if not names:
                return (
                    answer,
                    "Not memorized, so there are no neurons to switch off.",
                    prompt,
                    _choices([]),
                    gr.skip(),
                    "",
                    [],
                    [],
                )
            made = visit.wait(loading).compare(
                answer.prompt, answer.neurons, by, count, visit.stage("making images")
            )
            text = f"{len(names)} neuron{'s' if len(names) > 1 else ''} {'found' if answer.localization else 'in the file'}."
            if answer.localization and answer.localization.theta_exhausted:
                text += " The threshold could not be reached even with all candidates off: the copy may survive."
            factor = gr.Slider(min(-1.0, by), max(1.0, by), value=by)
            return (
                answer,
                text,
                prompt,
                _choices(names),
                factor,
                made.sentence,
                list(made.before),
                list(made.after),
            )

        def do_compare(
            answer: Found | None,
            names: list[str],
            by: float,
            count: int,
            request: gr.Request,
            progress: gr.Progress = _PROGRESS,
        ) -> tuple[str, list[Any], list[Any]]:
            known, visit = _localized(answer), visits.open(request, progress)
            made = visit.wait(loading).compare(
                known.prompt, known.chosen(names), by, int(count), visit.stage("making images")
            )
            return made.sentence, list(made.before), list(made.after)

        def do_load(
            path: str | None,
            text: str,
            count: int,
            request: gr.Request,
            progress: gr.Progress = _PROGRESS,
        ) -> tuple[Any, ...]:
            if path is None:
                return tuple(gr.skip() for _ in shown)
            visit = visits.open(request, progress)
            answer = visit.wait(loading).load(path, text)
            return show(answer, answer.scale, int(count), visit)

        def maker(key: str) -> Callable[..., str]:
            def make(
                answer: Found | None,
                names: list[str],
                by: float,
                count: int,
                request: gr.Request,
                progress: gr.Progress = _PROGRESS,
            ) -> str:
                known, visit = _localized(answer), visits.open(request, progress)
                studio, report = visit.wait(loading), visit.stage("writing", "sets of images")
                if key == "report":
                    return str(studio.report(known, int(count), report))
                return str(
                    (studio.neuron_file if key == "neurons" else studio.lora)(
                        known, known.chosen(names), by
                    )
                )

            return make

        shown = [found, said, about, off, scale, copied, before, after]
        one = {"concurrency_limit": 1, "concurrency_id": "model"}
        events = [
            run_probe.click(_told(do_probe), [prompt, images], [gauge, verdict, probed], **one),
            prompt.submit(_told(do_probe), [prompt, images], [gauge, verdict, probed], **one),
            run_localize.click(_told(do_localize), [prompt, scale, images], shown, **one),
            compare.click(
                _told(do_compare), [found, off, scale, images], [copied, before, after], **one
            ),
            upload.upload(_told(do_load), [upload, prompt, images], shown, **one),
            *(
                button.click(_told(maker(key)), [found, off, scale, images], file, **one)
                for button, file, key in files
            ),
        ]
        page.load(
            _told(do_wait), None, [state, example], show_progress="hidden", concurrency_limit=None
        )
        cancel.click(visits.cancel, cancels=events, queue=False)
    return page


def _told(work: Callable[..., Any]) -> Callable[..., Any]:
    """Errors become a sentence on the page."""

    @wraps(work)
    def told(*arguments: Any, **named: Any) -> Any:
        try:
            return work(*arguments, **named)
        except UnmemorizeError as problem:
            raise gr.Error(html.escape(str(problem)), print_exception=False) from problem
        except _CancelledError as problem:
            raise gr.Error("Cancelled.", print_exception=False) from problem
        except CancelledError as problem:
            raise gr.Error(
                "The model could not be loaded; the terminal says why.", print_exception=False
            ) from problem
        except Exception as problem:
            log.exception("a request fails")
            raise gr.Error(
                "This did not work; the terminal says why.", print_exception=False
            ) from problem

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
