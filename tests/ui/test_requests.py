"""Requests without a browser: progress, Cancel, and errors as sentences."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest
from PIL import Image

from unmemorize import Detection, PromptError

gr = pytest.importorskip("gradio")

from unmemorize.ui import _html as html  # noqa: E402
from unmemorize.ui._requests import Feedback, Requests, Visit  # noqa: E402


class Bar:
    """Records what a visitor sees of the progress."""

    def __init__(self) -> None:
        self.shown: list[tuple[Any, str]] = []

    def __call__(self, progress: Any, desc: str = "", unit: str = "") -> None:
        self.shown.append((progress, desc))


def visitor(name: str) -> Any:
    return SimpleNamespace(session_hash=name)


@pytest.fixture
def loading() -> Future[Any]:
    return Future()


@pytest.fixture
def requests(loading: Future[Any]) -> Requests:
    return Requests(loading)


@pytest.fixture
def feedback() -> Feedback:
    return Feedback("tab")


def outcome(requests: Requests, feedback: Feedback, work: Any, name: str = "a") -> list[Any]:
    """What a visitor gets to see: everything that work yields, then the end."""
    return list(requests.handler(feedback, [], work)(visitor(name), Bar()))


def message(values: list[Any], feedback: Feedback) -> Any:
    return values[-1][feedback.status]


def test_work_gets_a_visit_and_the_inputs(
    requests: Requests, loading: Future[Any], feedback: Feedback
) -> None:
    loading.set_result("the studio")
    button = gr.Button()

    def work(visit: Visit, *values: int) -> Iterator[Any]:
        yield {"studio": visit.studio}
        yield {"values": values}

    begun, first, second, end = requests.handler(feedback, [button], work)(
        visitor("a"), Bar(), 1, 2
    )
    assert first == begun | {"studio": "the studio"}
    assert second == begun | {"studio": "the studio", "values": (1, 2)}
    assert end[feedback.status] == ""
    assert not end[feedback.cancel].visible
    assert end[button]["interactive"]


def test_the_last_values_hold_all_before(requests: Requests, feedback: Feedback) -> None:
    """Gradio's page loses values that a later one leaves out before they are shown."""
    button = gr.Button()

    def work(_: Visit) -> Iterator[Any]:
        yield {"drawn": "", button: gr.update(visible=False)}
        yield {"drawn": "images", "verdict": "memorized"}
        yield {button: gr.update(visible=True, value="Go on")}
        raise PromptError("this is all.")

    *_, last, end = requests.handler(feedback, [button], work)(visitor("a"), Bar())
    assert (last["drawn"], last["verdict"]) == ("images", "memorized")
    assert (end["drawn"], end["verdict"]) == ("images", "memorized")
    assert end[button] == gr.update(visible=True, value="Go on", interactive=True)
    assert "this is all." in end[feedback.status]


def test_work_that_waits_is_shown(requests: Requests, feedback: Feedback) -> None:
    button = gr.Button()
    begun = requests.begin(feedback, [button])(visitor("a"))
    assert "Waiting for the model" in begun[feedback.status].value
    assert begun[feedback.cancel].visible
    assert not begun[button].interactive


def test_work_that_has_begun_does_not_wait_any_more(
    requests: Requests, loading: Future[Any], feedback: Feedback
) -> None:
    """Its bar names the stage; the message of before would contradict it until the end."""
    loading.set_result("the studio")
    seen = []

    def work(visit: Visit) -> Iterator[Any]:
        with visit.stage("drawing"):
            yield {"drawn": "an image"}

    requests.begin(feedback, [])(visitor("a"))
    for values in requests.handler(feedback, [], work)(visitor("a"), Bar()):
        status = values[feedback.status]
        seen.append(status if isinstance(status, str) else status.value)
    assert len(seen) == 3
    assert not [text for text in seen if "Waiting" in text]
    assert "working" in seen[0]  # the bar has its place


def test_waiting_for_the_model_is_shown(loading: Future[Any]) -> None:
    shown = []
    studio: Any = object()

    def bar(progress: float, desc: str) -> None:
        shown.append((progress, desc))
        loading.set_result(studio)

    visit = Visit(loading, cast(Any, bar), SimpleNamespace(is_set=lambda: False))  # type: ignore[arg-type]
    assert visit.studio is studio
    assert shown == [(0.0, "loading the model")]
    assert visit.studio is studio
    assert len(shown) == 1


def test_progress_is_shown_by_stage(requests: Requests, feedback: Feedback) -> None:
    bar = Bar()

    def work(visit: Visit) -> Iterator[Any]:
        with visit.stage("making images") as progress:
            progress(3, 8)
        yield {}

    list(requests.handler(feedback, [], work)(visitor("a"), bar))
    assert bar.shown == [((0, None), "making images"), ((3, 8), "making images")]


def test_cancel_ends_the_latest_work_of_this_visitor_in_this_tab(
    requests: Requests, feedback: Feedback
) -> None:
    steps: dict[str, list[int]] = {"first": [], "other": [], "tab": []}
    other_tab = Feedback("other tab")

    def work(name: str) -> Callable[..., Any]:
        def do(visit: Visit) -> Iterator[Any]:
            with visit.stage("work") as report:
                for step in range(3):
                    report(step, 3)
                    steps[name].append(step)
                    requests.cancel(feedback)(visitor("first"))
            yield {"done": True}

        return do

    requests.cancel(feedback)(visitor("first"))  # nothing to cancel yet
    values = outcome(requests, feedback, work("first"), "first")
    assert "Cancelled." in message(values, feedback)
    assert outcome(requests, feedback, work("other"), "other")[-1]["done"]
    assert outcome(requests, other_tab, work("tab"), "first")[-1]["done"]
    assert steps == {"first": [0], "other": [0, 1, 2], "tab": [0, 1, 2]}


def test_work_can_be_cancelled_while_it_waits(requests: Requests, feedback: Feedback) -> None:
    def work(visit: Visit) -> Iterator[Any]:
        with visit.stage("work"):
            yield {"begun": True}

    requests.begin(feedback, [])(visitor("a"))
    requests.cancel(feedback)(visitor("a"))
    *_, end = outcome(requests, feedback, work)
    assert "Cancelled." in end[feedback.status]
    requests.begin(feedback, [])(visitor("a"))  # the next work is not cancelled
    assert outcome(requests, feedback, work)[-1]["begun"]


def test_cancel_ends_what_works_and_what_waits(requests: Requests, feedback: Feedback) -> None:
    """A visitor may begin something else in a tab that works already."""

    def work(visit: Visit) -> Iterator[Any]:
        with visit.stage("work") as report:
            for step in range(3):
                report(step, 3)
                yield {"step": step}

    begin, cancel = requests.begin(feedback, []), requests.cancel(feedback)
    begin(visitor("a"))
    running = requests.handler(feedback, [], work)(visitor("a"), Bar())
    next(running)
    assert next(running)["step"] == 0
    begin(visitor("a"))
    cancel(visitor("a"))
    (end,) = running
    assert "Cancelled." in end[feedback.status]
    assert end[feedback.cancel].visible  # the other one still waits
    begin(visitor("a"))  # after Cancel, so it is not cancelled
    *_, second = outcome(requests, feedback, work)
    assert "Cancelled." in second[feedback.status]
    *_, third = outcome(requests, feedback, work)
    assert (third["step"], third[feedback.status]) == (2, "")
    assert not third[feedback.cancel].visible


def fail(problem: Exception) -> Callable[..., Any]:
    def work(visit: Visit) -> Iterator[Any]:
        yield {"so far": True}
        raise problem

    return work


def test_errors_become_sentences(
    requests: Requests, feedback: Feedback, caplog: pytest.LogCaptureFixture
) -> None:
    values = outcome(requests, feedback, fail(PromptError("no <b>prompt</b>")))
    assert values[1]["so far"]
    assert "no &lt;b&gt;prompt&lt;/b&gt;" in message(values, feedback)
    assert 'role="alert"' in message(values, feedback)
    assert caplog.records == []
    with caplog.at_level(logging.ERROR):
        values = outcome(requests, feedback, fail(KeyError("secret")))
    assert "This did not work. The terminal says why." in message(values, feedback)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert "secret" in str(record.exc_info[1])


def test_a_model_that_cannot_be_loaded(
    requests: Requests, loading: Future[Any], feedback: Feedback
) -> None:
    loading.cancel()

    def work(visit: Visit) -> Iterator[Any]:
        yield {"studio": visit.studio}

    values = outcome(requests, feedback, work)
    assert "could not be loaded" in message(values, feedback)


@pytest.mark.parametrize(
    ("score", "width", "css_class"),
    [(0.5, "62.5%", "gauge hot"), (-0.2, "0.0%", "gauge"), (9.0, "100.0%", "gauge hot")],
)
def test_the_gauge_shows_the_score_and_tau(score: float, width: str, css_class: str) -> None:
    similarity = Detection(
        prompt="a cat",
        group="",
        score=score,
        tau=0.4,
        memorized=score > 0.4,
        seeds=10,
        evaluations=10,
        seconds=0.1,
    )
    drawn = html.gauge(similarity)
    assert f'class="{css_class}"' in drawn
    assert f'class="bar" style="width:{width}"' in drawn
    assert 'class="tau" style="left:50%"' in drawn
    level = f"{score:.4g}; the line is its level, tau 0.4"
    assert f"highest similarity between two seeds {level}" in drawn
    norm = html.gauge(replace(similarity, detector="late-noise-magnitude"))
    assert f"score of late-noise-magnitude {level}" in norm


def test_text_in_html_is_escaped() -> None:
    hostile = "<script>alert(1)</script>\"'"
    image = Image.new("RGB", (4, 4))
    for made in (
        html.verdict(hostile, hostile, hostile),
        html.figures(hostile, [html.Figure(image, hostile), html.Figure(None, hostile)]),
        html.sentence(hostile),
        html.command(hostile, hostile),
        html.problem(hostile),
        html.working(hostile),
    ):
        assert "<script" not in made
        assert "&lt;script&gt;" in made


def test_images_are_ranked_by_their_scores() -> None:
    images = [Image.new("RGB", (side, side)) for side in (1, 2, 3)]
    ranked = html.scored(images, [0.2, 0.9, 0.5])
    assert [figure.image for figure in ranked] == [images[1], images[2], images[0]]
    assert [figure.caption for figure in ranked] == [f"copy score {x:.2f}" for x in (0.9, 0.5, 0.2)]
