"""The tab *Check an image*. See `_prompt_tab` on imports."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr

from unmemorize._errors import UnmemorizeError
from unmemorize.ui import _html as html
from unmemorize.ui._requests import Feedback, Requests, Values, Visit, shown

if TYPE_CHECKING:
    from unmemorize.ui._audit_image import ImageAudit


class ImageTab:
    """Does the model copy a picture?"""

    def __init__(self, requests: Requests) -> None:
        with gr.Tab("Check an image", elem_id="image-tab", render_children=True):
            self._picture = gr.File(
                label="Your picture", file_types=["image"], height=120, elem_id="picture"
            )
            self._feedback = Feedback("image")
            self._preview = gr.HTML(visible=False, elem_id="preview")
            with gr.Column(visible=False, elem_id="image-ways") as self._ways:
                self._prompts = gr.Textbox(
                    label="Prompts that may bring it back, one in each line",
                    lines=2,
                    max_lines=8,
                    elem_id="image-prompts",
                )
                self._check = gr.Button("Check", variant="primary", elem_id="check-image")
                self._about = gr.HTML(elem_id="audit-about")
                self._audit = gr.Button("Audit the picture", visible=False, elem_id="audit")
            self._asked = gr.State(None)  # the ImageAudit of the picture
            self._checked = gr.HTML(visible=False, elem_id="image-checked")
            self._audited = gr.HTML(visible=False, elem_id="audited")
            self._report = gr.File(
                label="Take home", interactive=False, visible=False, elem_id="audit-report"
            )
        self._wire(requests)

    def _wire(self, requests: Requests) -> None:
        buttons = [self._check, self._audit]
        requests.wire(
            self._feedback,
            [self._picture.upload, self._picture.clear],
            self.read,
            [self._picture],
            [
                *(self._preview, self._ways, self._about, self._audit, self._asked),
                *(self._checked, self._audited, self._report),
            ],
            buttons,
        )
        requests.wire(
            self._feedback,
            [self._check.click],
            self.check,
            [self._asked, self._prompts],
            [self._checked],
            buttons,
        )
        requests.wire(
            self._feedback,
            [self._audit.click],
            self.audit,
            [self._asked],
            [self._audited, self._report],
            buttons,
        )
        self._feedback.cancel.click(requests.cancel(self._feedback), queue=False)

    def read(self, visit: Visit, path: str | None) -> Iterator[Values]:
        """Show the picture and what can be asked about it; nothing when it is taken away."""
        nothing = {
            self._preview: "",
            self._ways: gr.Column(visible=False),
            self._checked: "",
            self._audited: "",
            self._report: gr.File(None, visible=False),
        }
        if path is None:
            yield nothing
            return
        studio = visit.studio
        from unmemorize.metrics import read_image
        from unmemorize.ui._audit_image import ImageAudit

        try:
            picture = read_image(path)
        except UnmemorizeError:
            yield nothing
            raise
        audit = ImageAudit(studio, Path(path))
        with visit.stage("timing a step"):
            offered = audit.is_offered
        known = "If no prompt is known, an audit tells whether the picture is in the weights."
        yield {
            **nothing,
            self._preview: shown(
                html.figures("your picture", [html.Figure(picture, Path(path).name)])
            ),
            self._ways: gr.Column(visible=True),
            self._asked: audit,
            self._about: html.sentence(f"{known} {audit.sentence}")
            if offered
            else html.command(f"{known} {audit.sentence} Start it in a terminal:", audit.command),
            self._audit: gr.update(visible=offered),
        }

    def check(self, visit: Visit, asked: ImageAudit, prompts: str) -> Iterator[Values]:
        """Draw images of the prompts, and compare them with the picture."""
        studio = visit.studio
        from unmemorize.metrics import read_image
        from unmemorize.ui._check_image import check_image, prompts_in

        texts = prompts_in(prompts)
        cards: list[str] = []
        picture = html.Figure(read_image(asked.picture), "your picture")
        for found in check_image(studio, asked.picture, texts, visit.stage):
            images = html.scored(found.images, found.confirmation.scores)
            cards.append(
                html.card(
                    html.verdict(found.status, found.verdict, found.prompt),
                    html.figures("images of the prompt", [picture, *images]),
                )
            )
            yield {self._checked: shown("".join(cards))}

    def audit(self, visit: Visit, asked: ImageAudit) -> Iterator[Values]:
        """Attack the picture and never-trained photographs."""
        from unmemorize.metrics import read_image
        from unmemorize.ui._audit_image import finding_in_words

        audited = asked.run(visit.stage)
        finding = audited.finding
        status = "found" if finding.found else "not found"
        pictures = [
            html.Figure(read_image(asked.picture), "your picture"),
            html.Figure(read_image(audited.closest), f"closest, {finding.score:.2f}"),
        ]
        content = html.verdict(status, finding_in_words(finding))
        content += html.figures("the audit", pictures) + html.about_pack(audited.digest)
        yield {
            self._audited: shown(html.card(content)),
            self._report: gr.File(str(audited.pack), visible=True),
        }
