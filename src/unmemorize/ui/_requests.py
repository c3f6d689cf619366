"""Requests of visitors: their progress, their end by Cancel, and errors as sentences."""

from __future__ import annotations

import logging
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING, Any

import gradio as gr

from unmemorize._errors import UnmemorizeError
from unmemorize.ui._html import problem, working

if TYPE_CHECKING:
    from unmemorize.engines import Progress
    from unmemorize.ui._studio import Studio

log = logging.getLogger(__name__)

Values = dict[Any, Any]
"""New values by component. Components that are not named keep theirs. Those of the buttons of a tab
are made by ``gr.update``."""
Work = Callable[..., Iterable[Values]]
"""Called with a `Visit` and the values of inputs. Yields what is known so far."""

_PROGRESS = gr.Progress()
"""A default value that Gradio replaces for each request."""


def shown(content: str) -> gr.HTML:
    """Show a result. It is emptied, not hidden, when it is old: Gradio may lose a component that is
    hidden and shown within one request.
    """
    return gr.HTML(content, visible=True)


class _StoppedError(Exception):
    """The visitor pressed Cancel."""


class Visit:
    """One request of a visitor.

    Args:
        loading: the studio, which may still be loading.
        progress: the bar that the visitor sees.
        cancelled: set when the visitor presses Cancel.
    """

    def __init__(self, loading: Future[Studio], progress: gr.Progress, cancelled: Event) -> None:
        self._loading = loading
        self._progress = progress
        self._cancelled = cancelled

    @property
    def studio(self) -> Studio:
        """The studio. Waits until it is loaded."""
        if not self._loading.done():
            self._progress(0.0, desc="loading the model")
        return self._loading.result()

    @contextmanager
    def stage(self, title: str) -> Iterator[Progress]:
        """Open the progress of a stage. It ends the work once the visitor has pressed Cancel."""

        def report(done: int, total: int | None) -> None:
            if self._cancelled.is_set():
                raise _StoppedError
            self._progress((done, total), desc=title, unit="steps")

        report(0, None)
        yield report


class Feedback:
    """Where a tab shows how far its work is and its only message, and how to end the work.

    Args:
        name: of the tab.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.status = gr.HTML(visible=False, elem_id=f"{name}-status")
        self.cancel = gr.Button("Cancel", visible=False, elem_id=f"{name}-cancel")


_Key = tuple[str | None, str]
"""Visitor and tab."""


class Requests:
    """The requests of all visitors. Of one visitor in one tab, several may wait.

    Args:
        loading: the studio, which may still be loading.
    """

    def __init__(self, loading: Future[Studio]) -> None:
        self._loading = loading
        self._waiting: defaultdict[_Key, deque[Event]] = defaultdict(deque)
        """For the requests that have begun and that no handler has taken up yet."""
        self._active: defaultdict[_Key, list[Event]] = defaultdict(list)

    def wire(
        self,
        feedback: Feedback,
        triggers: Iterable[Callable[..., Any]],
        work: Work,
        inputs: list[Any],
        outputs: list[Any],
        buttons: Iterable[gr.Button],
    ) -> None:
        """Let components of a tab start work.

        Args:
            feedback: of the tab.
            triggers: methods of components, such as ``button.click``.
            work: what they start.
            inputs, outputs: the components that it reads and changes.
            buttons: those that cannot be pressed meanwhile.
        """
        changed = [feedback.status, feedback.cancel, *buttons]
        for trigger in triggers:
            trigger(
                self.begin(feedback, buttons), None, changed, queue=False, show_progress="hidden"
            ).then(
                self.handler(feedback, buttons, work),
                inputs,
                [*changed, *(each for each in outputs if each not in changed)],
                show_progress_on=feedback.status,
                concurrency_limit=1,
                concurrency_id="model",  # one request at a time uses it
            )

    def begin(self, feedback: Feedback, buttons: Iterable[gr.Button]) -> Callable[..., Values]:
        """Return what Gradio calls at once: it shows that the work waits, and offers Cancel."""

        def begun(request: gr.Request) -> Values:
            self._waiting[request.session_hash, feedback.name].append(Event())
            return {
                feedback.status: shown(working("Waiting for the model …")),
                feedback.cancel: gr.Button(visible=True),
                **{button: gr.Button(interactive=False) for button in buttons},
            }

        return begun

    def handler(
        self, feedback: Feedback, buttons: Iterable[gr.Button], work: Work
    ) -> Callable[..., Iterator[Values]]:
        """Turn work into a function that Gradio calls for each request.

        The first values take away the message that the work waits. Whatever it yields holds
        everything from before. Gradio sends differences, and its page
        applies them to values that it has not shown yet: those that are left out would be lost
        on a busy machine.
        """

        # Gradio tells the request and the progress apart from inputs by this signature
        def handle(
            request: gr.Request, progress: gr.Progress = _PROGRESS, *values: Any
        ) -> Iterator[Values]:
            key = (request.session_hash, feedback.name)
            waiting, active = self._waiting[key], self._active[key]
            cancelled = waiting.popleft() if waiting else Event()
            active.append(cancelled)
            visit = Visit(self._loading, progress, cancelled)
            message = ""
            known: Values = {feedback.status: shown(working(""))}  # the bar takes its place
            try:
                yield known.copy()
                for new in work(visit, *values):
                    known |= new
                    yield known.copy()
            except Exception as error:
                message = _message(error)
            finally:
                active.remove(cancelled)
            yield {
                **known,
                feedback.status: message,
                feedback.cancel: gr.Button(visible=bool(waiting)),
                **{
                    button: {**known.get(button, {}), **gr.update(interactive=True)}
                    for button in buttons
                },
            }

        return handle

    def cancel(self, feedback: Feedback) -> Callable[..., None]:
        """Return what ends all work of a visitor in a tab at its next step, also what waits."""

        def cancel(request: gr.Request) -> None:
            key = (request.session_hash, feedback.name)
            for event in (*self._active[key], *self._waiting[key]):
                event.set()

        return cancel


def _message(error: Exception) -> str:
    """Return what the visitor is told about an error."""
    if isinstance(error, UnmemorizeError):
        return problem(str(error))
    if isinstance(error, _StoppedError):
        return working("Cancelled.")
    if isinstance(error, CancelledError):
        return problem("The model could not be loaded. The terminal says why.")
    log.error("a request failed", exc_info=error)
    return problem("This did not work. The terminal says why.")
