"""What changed between two runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from audited import audited_run
from compared_run import compared_run
from mitigated_run import mitigated_run
from records import LAYER, localization, localized_run
from unmemorize import Neurons, Prompt, Run, RunError
from unmemorize.report import Changed, _difference, difference_of


def two_mitigations(folder: Path) -> tuple[Run, Run]:
    """Two runs, the second with one more memorized prompt and another verdict."""
    first, second = mitigated_run(folder / "a"), mitigated_run(folder / "b", memorized=4)
    path = second.folder / "mitigation.json"
    result: Any = json.loads(path.read_text())
    result["outcomes"][1] |= {"status": "reduced", "score": 0.25, "worst_before": 0.9010000001}
    path.write_text(json.dumps(result))
    return first, second


def test_settings_verdicts_scores_and_prompts_of_one_run(tmp_path: Path) -> None:
    first, second = two_mitigations(tmp_path)
    found = difference_of(first, second)
    assert "prompts" in [change.what for change in found.settings]
    status = Changed("memorized prompt 1", "status", "removed", "reduced")
    assert status in found.verdicts
    assert not [change for change in found.verdicts if change.what == "nothing at all"]
    largest = found.scores[0]
    assert (largest.what, largest.column, largest.after) == ("memorized prompt 1", "score", 0.25)
    before, after = found.totals
    assert (before.headline, after.headline) == (
        "Copies removed for 2 of 3 memorized prompts: 6 of 36 fresh images are copies.",
        "Copies removed for 2 of 4 memorized prompts: 6 of 48 fresh images are copies.",
    )
    assert before.copies == pytest.approx(1000 / 6)
    assert after.copies == 125
    assert (before.paraphrases, after.paraphrases) == (0, 0)
    assert before.changed == pytest.approx(1000 * first_share(first))
    assert "worst_before" not in [change.column for change in found.scores]
    assert (found.only_first, found.only_second) == ((), ("memorized prompt 3",))
    assert found.shared == 5
    assert difference_of(second, first).only_first == ("memorized prompt 3",)


def first_share(run: Run) -> float:
    ordinary = json.loads((run.folder / "mitigation.json").read_text())["ordinary"]
    return float(ordinary["changed"] / ordinary["images"])


def test_counts_and_words_are_no_scores_and_no_verdicts(tmp_path: Path) -> None:
    """More images, another rung and other words about the same status say nothing of copies."""
    first, second = mitigated_run(tmp_path / "a"), mitigated_run(tmp_path / "b")
    path = second.folder / "mitigation.json"
    result: Any = json.loads(path.read_text())
    outcome = result["outcomes"][1]
    outcome |= {"rung": "keys and values", "verdict": "removed (0 of 72)", "worst_before": 0.95}
    outcome["after"] |= {"seeds": 72}
    path.write_text(json.dumps(result))
    found = difference_of(first, second)
    what = "memorized prompt 1"
    assert found.verdicts == ()
    assert found.others == (
        Changed(what, "rung", "complete neurons at 0", "keys and values"),
        Changed(what, "images_after", 12, 72),
    )
    assert [(change.what, change.column) for change in found.scores] == [(what, "worst_before")]


def test_values_are_told_apart_without_comparing_all_of_them(tmp_path: Path) -> None:
    prompts = [Prompt(f"prompt {number}") for number in range(300)]
    runs = [
        localized_run(
            tmp_path / str(score),
            prompts,
            {
                index: localization(prompt.text, "", score, Neurons({LAYER: [index % 5]}))
                for index, prompt in enumerate(prompts)
            },
        )
        for score in (0.6, 0.7)
    ]
    compared = []

    class Counting(Changed):
        def __eq__(self, other: object) -> bool:
            compared.append(other)
            return super().__eq__(other)

        __hash__ = Changed.__hash__

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_difference, "Changed", Counting)
        found = difference_of(*runs)
    assert len(found.scores) >= 300
    assert compared == []


def test_a_run_does_not_differ_from_itself(tmp_path: Path) -> None:
    run = mitigated_run(tmp_path)
    found = difference_of(run, run)
    assert (found.settings, found.verdicts, found.others, found.scores) == ((), (), (), ())
    assert found.totals[0] == found.totals[1]
    assert found.same == found.shared == 5


def test_neurons_are_compared_and_what_is_unknown_is_no_score(tmp_path: Path) -> None:
    prompts = [Prompt("one"), Prompt("two")]
    records = {
        0: localization("one", "", 0.6, Neurons({LAYER: [3, 5]})),
        1: localization("two", "", 0.1, None),
    }
    first = localized_run(tmp_path / "a", prompts, records)
    records[0] = localization("one", "", 0.6, Neurons({LAYER: [3]}))
    records[1] = localization("two", "", 0.5, Neurons({LAYER: [1]}))
    found = difference_of(first, localized_run(tmp_path / "b", prompts, records))
    words = {(change.what, change.column): change for change in found.verdicts}
    assert [each["index"] for each in words["one", "neurons"].before] == [3, 5]
    assert [each["index"] for each in words["one", "neurons"].after] == [3]
    assert (words["two", "memorized"].before, words["two", "memorized"].after) == (False, True)
    unknown = {(change.what, change.column): change for change in found.others}
    assert unknown["two", "final_score"].before is None
    assert [(change.what, change.column) for change in found.scores] == [
        ("two", "score"),
        ("two", "mean"),
    ]


def test_a_prompt_may_be_there_several_times(tmp_path: Path) -> None:
    """Also one whose text is what the second of another is called."""
    texts = ["a", "a (2)", "a", "a"]

    def run(name: str, scores: list[float]) -> Run:
        records = {
            index: localization(text, "", score, None)
            for index, (text, score) in enumerate(zip(texts, scores, strict=True))
        }
        return localized_run(tmp_path / name, [Prompt(text) for text in texts], records)

    first = run("first", [0.1, 0.2, 0.3, 0.4])
    found = difference_of(first, run("second", [0.15, 0.2, 0.3, 0.5]))
    changes = [(each.what, each.before, each.after) for each in found.scores]
    assert [each for each in changes if each[1] != each[2]] == changes
    assert {(what, after) for what, _, after in changes} == {("a", 0.15), ("a (4)", 0.5)}
    assert (found.shared, found.same) == (4, 2)


def test_measured_times_are_no_difference(tmp_path: Path) -> None:
    """They differ between two runs that do the same."""
    first = compared_run(tmp_path / "first", speed=1.0)
    found = difference_of(first, compared_run(tmp_path / "second", speed=0.7))
    assert (found.scores, found.verdicts, found.same, found.shared) == ((), (), 3, 3)
    (change,) = difference_of(first, compared_run(tmp_path / "third", copy=0.3)).scores
    assert change == Changed("method, pads, 0.7, all", "copy", 0.2, 0.3)


def test_rows_of_an_audit_are_told_apart_by_arm_and_attack(tmp_path: Path) -> None:
    first, second = (audited_run(tmp_path / name, None) for name in "ab")
    path = second.folder / "audit.json"
    result = json.loads(path.read_text())
    result["images"][1]["scores"] = [0.4, 0.45]
    path.write_text(json.dumps(result))
    (change,) = difference_of(first, second).scores
    assert change == Changed("a cat, never-trained, L4", "score", 0.4, 0.45)


def test_runs_of_two_kinds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"of kind mitigation, .* of kind audit\. Name two runs"):
        difference_of(mitigated_run(tmp_path), audited_run(tmp_path / "audit", None))
