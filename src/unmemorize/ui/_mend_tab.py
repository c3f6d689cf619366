"""The tab *Mend a model*. See `_prompt_tab` on imports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from unmemorize._errors import UnmemorizeError
from unmemorize.ui import _html as html
from unmemorize.ui._requests import Feedback, Requests, Values, Visit, shown

if TYPE_CHECKING:
    from unmemorize.mitigation import PromptOutcome
    from unmemorize.ui._mend import Mended, Suspects

_QUICK = "Quick: excludes copy rates above 26 %"
_FULL = "Full: excludes copy rates above 5 %"


class MendTab:
    """Take copies out of the model, and take the result home."""

    def __init__(self, requests: Requests) -> None:
        with gr.Tab("Mend a model", elem_id="mend-tab", render_children=True):
            self._file = gr.File(
                label="Suspects (.txt, .csv, .jsonl, .parquet)",
                file_types=[".txt", ".csv", ".jsonl", ".parquet"],
                height=120,
                elem_id="suspects",
            )
            self.examples = gr.Button("Take the examples", visible=False, elem_id="take-examples")
            self._pictures = gr.File(
                label="Training images",
                file_types=["image"],
                file_count="multiple",
                height=120,
                elem_id="training-images",
            )
            self._feedback = Feedback("mend")
            with gr.Column(visible=False, elem_id="mend-ways") as self._ways:
                self._about = gr.HTML(elem_id="mend-about")
                self._way = gr.Radio([_QUICK, _FULL], value=_QUICK, label="How sure", elem_id="way")
                self._mend = gr.Button("Mend", variant="primary", elem_id="mend")
            self._suspects = gr.State(None)
            self._mended = gr.State(None)
            self._verdicts = gr.HTML(visible=False, elem_id="mend-verdicts")
            self._files = gr.File(
                label="Take home", interactive=False, visible=False, elem_id="mend-files"
            )
            self._pack = gr.Button(visible=False, elem_id="pack")
            self._model = gr.File(
                label="Edited model", interactive=False, visible=False, elem_id="edited-model"
            )
        self._wire(requests)

    def _wire(self, requests: Requests) -> None:
        buttons = [self._mend, self._pack, self.examples]
        results = [self._mended, self._verdicts, self._files, self._pack, self._model]
        read = [self._ways, self._about, self._suspects]
        requests.wire(
            self._feedback,
            [
                *(self._file.upload, self._file.clear),
                *(self._pictures.upload, self._pictures.clear, self._pictures.delete),
            ],
            self.read,
            [self._file, self._pictures],
            read,
            buttons,
        )
        requests.wire(
            self._feedback,
            [self.examples.click],
            self.take_examples,
            [],
            [self._file, self._pictures, *read],
            buttons,
        )
        requests.wire(
            self._feedback,
            [self._mend.click],
            self.mend,
            [self._suspects, self._way],
            results,
            buttons,
        )
        requests.wire(
            self._feedback,
            [self._pack.click],
            self.pack,
            [self._mended],
            [self._pack, self._model],
            buttons,
        )
        self._feedback.cancel.click(requests.cancel(self._feedback), queue=False)

    def read(
        self, visit: Visit, file: str | None, pictures: Sequence[str] | None
    ) -> Iterator[Values]:
        """Read the suspects, and say what mending takes; nothing without a file."""
        if file is None:
            yield {self._ways: gr.Column(visible=False)}
            return
        studio = visit.studio
        from unmemorize.ui._mend import read_suspects

        try:
            with visit.stage("timing a step"):
                suspects = read_suspects(studio, Path(file), list(map(Path, pictures or ())))
        except UnmemorizeError:
            yield {self._ways: gr.Column(visible=False)}
            raise
        yield {
            self._suspects: suspects,
            self._about: html.sentence(suspects.sentence),
            self._ways: gr.Column(visible=True),
        }

    def take_examples(self, visit: Visit) -> Iterator[Values]:
        """Take the examples as suspects."""
        studio = visit.studio
        from unmemorize.ui._mend import example_suspects

        path = example_suspects(studio)
        for values in self.read(visit, str(path), None):
            yield {self._file: str(path), self._pictures: None, **values}

    def mend(self, visit: Visit, suspects: Suspects, way: str) -> Iterator[Values]:
        """Mend the model, and show the verdicts."""
        studio = visit.studio
        from unmemorize.ui._mend import mend

        mended = mend(studio, suspects, quick=way == _QUICK, announce=visit.stage)
        checkpoint = mended.checkpoint
        yield {
            self._mended: mended,
            self._verdicts: shown(verdicts(mended)),
            self._files: gr.File([str(path) for path in mended.files], visible=True),
            self._pack: gr.update(
                value=f"Pack the edited model ({_megabytes(checkpoint)})" if checkpoint else "",
                visible=checkpoint is not None,
            ),
            self._model: gr.File(visible=False),
        }

    def pack(self, visit: Visit, mended: Mended) -> Iterator[Values]:
        """Make one file of the edited model."""
        with visit.stage("packing"):
            path = mended.packed_checkpoint()
        yield {
            self._pack: gr.update(visible=False),
            self._model: gr.File(str(path), visible=True),
        }


def verdicts(mended: Mended) -> str:
    """Return the headline, then each suspect with its pictures."""
    parts = [html.headline(mended.summary)]
    parts += [_outcome(mended, outcome) for outcome in mended.result.outcomes]
    parts += map(html.sentence, mended.refused)
    if mended.without_maps:
        parts.append(html.sentence(mended.without_maps))
    parts.append(html.about_pack(mended.digest))
    return "".join(parts)


def _outcome(mended: Mended, outcome: PromptOutcome) -> str:
    from unmemorize.metrics import read_image, read_references
    from unmemorize.runs import run_prompts

    text = outcome.verdict.removeprefix(outcome.status).strip()
    if outcome.before is None:
        text = "Detection does not call it memorized, so nothing was drawn."
    words = [html.verdict(outcome.status, text, outcome.prompt)]
    if not outcome.files_before:
        return html.card(*words)
    folder = mended.run.folder
    training = read_references(run_prompts(mended.run)[outcome.index].images).images
    pictures = [html.Figure(image, "training image") for image in training[:1]]
    pictures.append(html.Figure(read_image(folder / outcome.files_before[0]), "before"))
    if outcome.files_after:
        worst = outcome.scores_after.index(max(outcome.scores_after))
        pictures = [
            *pictures[:-1],
            html.Figure(read_image(folder / outcome.files_before[worst]), "before"),
            html.Figure(read_image(folder / outcome.files_after[worst]), "after, worst image"),
        ]
    for file in outcome.files_left[:1]:
        pictures.append(html.Figure(read_image(folder / file), "after, a copy from fresh noise"))
    return html.card(*words, html.figures("before and after", pictures))


def _megabytes(folder: Path) -> str:
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    return f"{size / 1e6:.0f} MB"
