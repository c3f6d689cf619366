"""What a mitigation is told, and what it says in one sentence."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from unmemorize import MitigationError, ModelError
from unmemorize.mitigation import (
    Copies,
    MitigationResult,
    MitigationSettings,
    PromptOutcome,
    Stages,
)


def test_the_number_of_ordinary_images_that_an_error_names_is_enough() -> None:
    with pytest.raises(ModelError, match="Take at least 333"):
        MitigationSettings(false_copies=0.003, ordinary_images=332)
    MitigationSettings(false_copies=0.003, ordinary_images=333)


def test_fewer_fresh_images_than_a_certificate_needs_are_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    message = r"fresh_images=71: a certificate needs at least 72 fresh images .* leave it out"
    with pytest.raises(MitigationError, match=message):
        MitigationSettings(fresh_images=71).refuse_few_images()
    with pytest.raises(MitigationError, match="at least 10"):
        replace(MitigationSettings.quick(), fresh_images=9).refuse_few_images()
    for enough in (0, 72, 200):
        MitigationSettings(fresh_images=enough).refuse_few_images()
        assert MitigationSettings(fresh_images=enough).certification(3).seeds == enough
    assert not caplog.text
    # how many prompts are certified together is known only when they are confirmed
    together = MitigationSettings(fresh_images=72, together=True)
    together.refuse_few_images()
    plan = together.certification(34).plan(1)
    assert 0.95**plan.seeds <= 0.025 / 34 < 0.95 ** (plan.seeds - 1)
    assert f"certificate of 34 prompts. At least {plan.seeds} are drawn" in caplog.text


def test_a_budget_of_everything_is_one_but_no_other_share_is() -> None:
    assert MitigationSettings(budget=1).budget == 1
    changes: list[dict[str, Any]] = [{"alpha": 1}, {"confidence": 1}, {"false_copies": 1}]
    for change in changes:
        with pytest.raises(ModelError, match=r"=1: a share .* such as 0\.05\.$"):
            MitigationSettings(**change)
    for budget in (0, 1.5):
        with pytest.raises(ModelError, match=rf"budget={budget}: .* such as 0\.05, or is 1\."):
            MitigationSettings(budget=budget)


def test_a_count_splits_its_seeds_as_the_certificate_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    firsts: list[int] = []
    monkeypatch.setattr(Stages, "work", lambda _, title, task, items: firsts.append(task.first))
    monkeypatch.setattr(Stages, "recorded", lambda _, kind: {})
    nothing: Any = None
    stages = Stages(nothing, nothing, MitigationSettings(), nothing, nothing, nothing, nothing)
    stages.images("certify", "certificate-1-abc", None, [], stop=2, keep="copies")
    stages.images("count copies", "count-1-abc", None, [], keep="copies")
    stages.images("confirm", "before", None, [], keep="all")
    assert firsts == [2, 2, stages.settings.generation.batch]


@pytest.mark.parametrize(
    ("statuses", "headline"),
    [
        (["not confirmed"], "The suspect is not shown to be memorized."),
        (["not confirmed", "not tested"], "None of 2 suspects is shown to be memorized."),
        (
            ["removed"],
            "Copies removed for 1 of 1 memorized prompt: 0 of 72 fresh images are copies.",
        ),
        (
            ["removed", "reduced", "not tested"],
            "Copies removed for 1 of 2 memorized prompts: 0 of 144 fresh images are copies.",
        ),
        (
            ["not removed", "not tested"],
            "No edit was found that could end the copies of 1 memorized prompt.",
        ),
    ],
)
def test_the_headline_counts_in_plain_words(statuses: list[Any], headline: str) -> None:
    outcomes = [
        PromptOutcome(
            index=index,
            prompt="a cat",
            group="",
            status=status,
            verdict=status,
            score=0.5,
            after=Copies(0, 99) if status in ("removed", "reduced") else None,
            first=Copies(0, 72) if status in ("removed", "reduced") else None,
        )
        for index, status in enumerate(statuses)
    ]
    edit = "" if statuses[0] == "not removed" else "0123456789"
    result = MitigationResult(outcomes=tuple(outcomes), edit=edit, budget=0.1)
    assert result.headline == headline
