"""Requests of visitors: their progress, their end by Cancel, and errors as sentences."""

from __future__ import annotations

import html
import logging
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from threading import Event
from typing import TYPE_CHECKING, Any

import gradio as gr

from unmemorize._errors import UnmemorizeError

if TYPE_CHECKING:
    from unmemorize.engines import Progress
    from unmemorize.ui._studio import Studio

log = logging.getLogger(__name__)

_PROGRESS = gr.Progress()
"""A default value that Gradio replaces for each request."""


class _StoppedError(Exception):
    """The visitor pressed Cancel."""


class Visit:
    """One request of a visitor.

    Args:
        loading: the studio, which may still be loading.
        progress: the bar that the visitor sees.
    """

    def __init__(self, loading: Future[Studio], progress: gr.Progress) -> None:
        self._loading = loading
        self._progress = progress
        self._cancelled = Event()

    @property
    def studio(self) -> Studio:
        """The studio. Waits until it is loaded."""
        if not self._loading.done():
            self._progress(0.0, desc="loading the model")
        return self._loading.result()

    def stage(self, label: str, unit: str = "steps") -> Progress:
        """Begin a stage of the work.

        Returns:
            A callback for the stage. It ends the work once the visitor has pressed Cancel.
        """
        self._progress(0.0, desc=label)

        def report(done: int, total: int | None) -> None:
            if self._cancelled.is_set():
                raise _StoppedError
            self._progress((done, total), desc=label, unit=unit)

        return report

    def cancel(self) -> None:
        """End the work at its next step."""
        self._cancelled.set()


class Requests:
    """The requests of all visitors.

    Args:
        loading: the studio, which may still be loading.
    """

    def __init__(self, loading: Future[Studio]) -> None:
        self._loading = loading
        self._latest: dict[str | None, Visit] = {}

    def handler(self, work: Callable[..., Any]) -> Callable[..., Any]:
        """Turn work into a function that Gradio calls for each request.

        Args:
            work: called with a `Visit` and the values of the inputs. Its errors become a sentence
                on the page.
        """

        # Gradio tells the request and the progress apart from inputs by this signature
        def handle(request: gr.Request, progress: gr.Progress = _PROGRESS, *values: Any) -> Any:
            visit = Visit(self._loading, progress)
            self._latest[request.session_hash] = visit
            try:
                return work(visit, *values)
            except Exception as problem:
                raise gr.Error(_sentence(problem), print_exception=False) from problem

        return handle

    def cancel(self, request: gr.Request) -> None:
        """End the latest request of a visitor. Gradio alone would leave its work running."""
        if visit := self._latest.get(request.session_hash):
            visit.cancel()


def _sentence(problem: Exception) -> str:
    """Return what the visitor is told about an error, as HTML."""
    if isinstance(problem, UnmemorizeError):
        return html.escape(str(problem))
    if isinstance(problem, _StoppedError):
        return "Cancelled."
    if isinstance(problem, CancelledError):
        return "The model could not be loaded. The terminal says why."
    log.error("a request failed", exc_info=problem)
    return "This did not work. The terminal says why."
