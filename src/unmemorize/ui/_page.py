"""The page: its head, its tabs, and its style."""

from __future__ import annotations

from concurrent.futures import Future
from typing import TYPE_CHECKING

import gradio as gr

from unmemorize.ui import _html as html
from unmemorize.ui._image_tab import ImageTab
from unmemorize.ui._mend_tab import MendTab
from unmemorize.ui._prompt_tab import PromptTab
from unmemorize.ui._requests import Requests, Values

if TYPE_CHECKING:
    from unmemorize.ui._studio import Studio

THEME = gr.themes.Soft(
    font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
).set(
    block_title_text_color="*primary_900",
    block_label_text_color="*primary_900",
    block_title_text_color_dark="*primary_50",
    block_label_text_color_dark="*primary_50",
    button_primary_background_fill="*primary_700",
    button_primary_background_fill_hover="*primary_800",
    button_secondary_background_fill="*neutral_200",
    button_secondary_background_fill_hover="*neutral_300",
    input_border_width="1px",
    input_border_color="*neutral_400",
    input_border_color_dark="*neutral_500",
    checkbox_border_color="*neutral_500",
    checkbox_border_color_dark="*neutral_400",
)
"""A theme with the fonts of the visitor's machine. Others would be loaded from the network. Labels,
buttons and fields have more contrast than usual."""
CSS = """
.gradio-container {
  width: 100% !important; max-width: 1100px !important; margin: 0 auto !important;
}
.gradio-container p, .gradio-container h2 { overflow-wrap: anywhere; }
.pictures {
  display: flex; flex-wrap: wrap; gap: .6rem; list-style: none; padding: 0; margin: 0 0 .6rem;
}
.pictures li { width: min(11rem, 47%); margin: 0; padding: 0; }
.pictures figure { margin: 0; }
.pictures img, .pictures .stopped {
  width: 100%; aspect-ratio: 1; object-fit: contain; border-radius: 6px;
  background: var(--background-fill-secondary); image-rendering: auto;
}
.pictures .stopped { display: flex; align-items: center; justify-content: center; }
.pictures figcaption, .small { font-size: .85rem; overflow-wrap: anywhere; }
.card {
  border: 1px solid var(--border-color-primary); border-radius: 8px;
  padding: .8rem; margin: .6rem 0;
}
.verdict { font-size: 1.05rem; margin: .3rem 0; }
.about { overflow-wrap: anywhere; margin: .2rem 0 .6rem; font-style: italic; }
.label { border-radius: 4px; padding: .1rem .45rem; color: #fff; background: #4b5563; }
.label.bad { background: #b3261e; }
.label.middle { background: #8a5300; }
.label.good { background: #1b6e3c; }
.problem { border-left: 4px solid #b3261e; padding: .3rem .8rem; overflow-wrap: anywhere; }
.working { min-height: 4rem; }
.gauge {
  position: relative; height: 1.4rem; border-radius: 6px; overflow: hidden;
  background: var(--background-fill-secondary);
}
.gauge .bar { position: absolute; inset: 0 auto 0 0; background: #2e86ab; }
.gauge.hot .bar { background: #e4572e; }
.gauge .tau {
  position: absolute; top: 0; bottom: 0; width: 2px; background: var(--body-text-color);
}
.gradio-container .or { color: inherit; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
#mend-files .label-clear-button { display: none; }
#example input { color: var(--body-text-color) !important; }
#off label { overflow-wrap: anywhere; white-space: normal; }
"""
_TITLE = "# unmemorize\nWhat has this model memorized, and how does it look without it?"


def build(loading: Future[Studio]) -> gr.Blocks:
    """Build the page.

    Each visitor has their own state. One request at a time uses the model.

    Args:
        loading: the studio, which may still be loading.
    """
    requests = Requests(loading)
    with gr.Blocks(title="unmemorize", analytics_enabled=False) as page:
        gr.Markdown(_TITLE)
        about = gr.HTML(html.working("Loading the model …"), elem_id="about-model")
        with gr.Tabs(overflow_behavior="wrap"):
            prompt = PromptTab(requests)
            ImageTab(requests)
            mend = MendTab(requests)
        shown = [about, prompt.examples, prompt.guarded, prompt.unguarded, mend.examples]

        def wait() -> Values:
            """Show what this model allows, once it is loaded."""
            try:
                studio = loading.result()
            except Exception:
                return {
                    about: html.problem("The model could not be loaded. The terminal says why.")
                }
            reason = studio.why_no_guard
            texts = [each.text for each in studio.prompts]
            return {
                about: html.sentence(studio.about),
                prompt.examples: gr.Dropdown(texts, visible=bool(texts)),
                prompt.guarded: gr.Checkbox(visible=not reason),
                prompt.unguarded: gr.HTML(
                    html.sentence(f"This model cannot be guarded: {reason}"),
                    visible=bool(reason),
                ),
                mend.examples: gr.Button(visible=bool(studio.suspects)),
            }

        page.load(
            wait,
            None,
            shown,
            show_progress="hidden",
            concurrency_limit=None,  # all visitors wait at once
        )
    return page
