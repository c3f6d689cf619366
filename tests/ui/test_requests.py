"""Requests without a browser: progress, Cancel, and errors as sentences."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import pytest

from unmemorize import PromptError

gr = pytest.importorskip("gradio")

from unmemorize.detection import Detection  # noqa: E402
from unmemorize.ui._answers import ProbeAnswer  # noqa: E402
from unmemorize.ui._requests import Requests, Visit  # noqa: E402
from unmemorize.ui._tabs import gauge, localized  # noqa: E402


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


def test_work_gets_a_visit_and_the_inputs(requests: Requests, loading: Future[Any]) -> None:
    loading.set_result("the studio")

    def work(visit: Visit, *values: int) -> list[Any]:
        return [visit.studio, *values]

    assert requests.handler(work)(visitor("a"), Bar(), 1, 2) == ["the studio", 1, 2]


def test_waiting_for_the_model_is_shown(loading: Future[Any]) -> None:
    shown = []
    studio: Any = object()

    def bar(progress: float, desc: str) -> None:
        shown.append((progress, desc))
        loading.set_result(studio)

    visit = Visit(loading, cast(Any, bar))
    assert visit.studio is studio
    assert shown == [(0.0, "loading the model")]
    assert visit.studio is studio
    assert len(shown) == 1


def test_progress_is_shown_by_stage(loading: Future[Any]) -> None:
    bar = Bar()
    Visit(loading, cast(Any, bar)).stage("making images")(3, 8)
    assert bar.shown == [(0.0, "making images"), ((3, 8), "making images")]


def test_cancel_ends_the_latest_request_of_this_visitor(requests: Requests) -> None:
    steps: dict[str, list[int]] = {"first": [], "other": []}

    def work(visit: Visit, name: str) -> str:
        report = visit.stage("work")
        for step in range(3):
            report(step, 3)
            steps[name].append(step)
            requests.cancel(visitor("first"))
        return "done"

    handle = requests.handler(work)
    requests.cancel(visitor("first"))  # nothing to cancel yet
    with pytest.raises(gr.Error, match="Cancelled"):
        handle(visitor("first"), Bar(), "first")
    assert handle(visitor("other"), Bar(), "other") == "done"
    assert steps == {"first": [0], "other": [0, 1, 2]}


def fail(problem: Exception) -> Callable[..., Any]:
    def work(visit: Visit) -> None:
        raise problem

    return work


def test_errors_become_sentences(requests: Requests, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(gr.Error) as known:
        requests.handler(fail(PromptError("no <b>prompt</b>")))(visitor("a"), Bar())
    assert known.value.message == "no &lt;b&gt;prompt&lt;/b&gt;"
    assert caplog.records == []
    with caplog.at_level(logging.ERROR), pytest.raises(gr.Error) as unknown:
        requests.handler(fail(KeyError("secret")))(visitor("a"), Bar())
    assert unknown.value.message == "This did not work. The terminal says why."
    (record,) = caplog.records
    assert record.exc_info is not None
    assert "secret" in str(record.exc_info[1])


def test_a_model_that_cannot_be_loaded(requests: Requests, loading: Future[Any]) -> None:
    loading.cancel()
    with pytest.raises(gr.Error, match="could not be loaded"):
        requests.handler(lambda visit: visit.studio)(visitor("a"), Bar())


def test_without_neurons_there_is_nothing_to_work_on() -> None:
    with pytest.raises(PromptError, match="Nothing is localized yet"):
        localized(None)


@pytest.mark.parametrize(
    ("score", "width", "css_class"), [(0.5, "50.0%", "gauge hot"), (-0.2, "0.0%", "gauge")]
)
def test_the_gauge_shows_the_score_and_tau(score: float, width: str, css_class: str) -> None:
    detection = Detection(
        prompt="<b>",
        group="",
        score=score,
        mean=score,
        tau=0.4,
        memorized=score > 0.4,
        memorized_seeds=(1,) if score > 0.4 else (),
        seeds=2,
        evaluations=2,
        seconds=0.1,
    )
    drawn = gauge(ProbeAnswer(detection, ()), 0.4)
    assert f'class="{css_class}"' in drawn
    assert f'class="bar" style="width:{width}"' in drawn
    assert 'class="tau" style="left:40.0%"' in drawn
    assert f"highest similarity between two seeds {score:.3f}, tau 0.400" in drawn
    assert "<b>" not in drawn
