"""What commands print: one JSON document with --json, else text that fits 80 columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from small_model import finish_run, model_words, save_inputs

from audited import audited_run
from conftest import PLANTED_PROMPT
from mitigated_run import copied_by_a_paraphrase, mitigated_run
from unmemorize import HardeningSettings, MitigationResult, Neurons, Run, Threshold
from unmemorize.cli import _console, main
from unmemorize.cli.audit import _print_next as print_next
from unmemorize.cli.audit import _print_verdicts as print_audit
from unmemorize.cli.mitigate import _print_verdicts as print_mitigation
from unmemorize.hardening import HardeningRun
from unmemorize.runs import Inputs


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and the files and run that the first commands made on it."""
    return finish_run(save_inputs(tmp_path_factory.mktemp("answers")))


class Call:
    """The command line; returns what it prints on standard output."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def text(self, *words: object, code: int = 0) -> str:
        self._capsys.readouterr()
        assert main([str(word) for word in words]) == code
        return self._capsys.readouterr().out

    def answer(self, *words: object, code: int = 0) -> Any:
        return json.loads(self.text(*words, "--json", code=code))


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.setattr(_console.console, "_width", 80)
    return Call(capsys)


def test_steps_answer_with_what_they_found(call: Call, finished: Path, tmp_path: Path) -> None:
    model = model_words(finished)
    ordinary = ("--prompts", finished / "unmemorized.txt")
    prompts = ("--prompts", finished / "prompts.csv")
    file = tmp_path / "s.safetensors"
    found = call.answer("statistics", *model, *ordinary, "-o", file)
    assert found == {"prompts": 6, "value_layers": 7, "file": str(file)}
    file = tmp_path / "t.json"
    found = call.answer("threshold", *model, *ordinary, "-o", file)
    threshold = Threshold.load(file)
    assert found["detect"]["tau"] == threshold.detect.tau
    assert found["file"] == str(file)
    words = ("detect", *model, *prompts, "--threshold", finished / "t.json", "-o", tmp_path / "d")
    found = call.answer(*words)
    assert (found["prompts"], found["memorized"], found["run"]) == (2, 1, str(tmp_path / "d"))
    assert found["highest"][0]["prompt"] == PLANTED_PROMPT
    assert call.answer(*words) == found
    found = call.answer("export", "upstream-csv", finished / "run", "-o", tmp_path / "u.csv")
    assert found == {"prompts": 2, "file": str(tmp_path / "u.csv")}
    found = call.answer("runs", "parquet", finished / "run", "-o", tmp_path / "r.parquet")
    assert found == {"rows": 2, "file": str(tmp_path / "r.parquet")}


def test_an_edit_from_file_to_verification(call: Call, finished: Path, tmp_path: Path) -> None:
    model, neurons = model_words(finished), finished / "run" / "neurons.json"
    found = call.answer("neurons", "show", neurons)
    assert Neurons.from_json(found["neurons"]) == Neurons.from_json(
        json.loads(neurons.read_text())["neurons"]
    )
    text = call.text("neurons", "show", neurons)
    assert text.splitlines()[0].startswith(f"{len(Neurons.from_json(found['neurons']))} neurons of")
    found = call.answer("export", "checkpoint", neurons, *model, "-o", tmp_path / "edited")
    assert found["files"] == [str(tmp_path / "edited")]
    words = ("verify", tmp_path / "edited", finished / "model")
    found = call.answer(*words)
    assert (found["passed"], found["kind"]) == (True, "checkpoint")
    assert all(change["expected"] for change in found["changes"])
    first = call.text(*words).splitlines()[0]
    assert first.endswith("changed as it should be, and nothing else")
    weights = next((tmp_path / "edited" / "vae").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    found = call.answer(*words, code=1)
    assert not found["passed"]
    assert "<- not what the edit says" in call.text(*words, code=1)


def test_an_error_leaves_standard_output_empty(call: Call, tmp_path: Path) -> None:
    assert call.text("status", tmp_path / "none", "--json", code=1) == ""
    assert call.text("status", "--json", code=2) == ""
    assert not _console.console.quiet


def test_reports_and_packs(call: Call, tmp_path: Path) -> None:
    run = mitigated_run(tmp_path).folder
    assert call.answer("report", run) == {"report": str(run / "report.html")}
    found = call.answer("report", run, "--pack", tmp_path / "e.zip")
    check = call.answer("verify", tmp_path / "e.zip")
    assert check["sha256"] == found["sha256"]
    assert check["numbers"] > 50
    assert f"Next: unmemorize report {run} --pack" in call.text("report", run)


def test_status_says_first_whether_a_run_is_finished(call: Call, tmp_path: Path) -> None:
    run = mitigated_run(tmp_path)
    lines = call.text("status", run.folder).splitlines()
    assert lines[0] == "Finished: mitigation of 5 prompts."
    copies = "6 of 36 fresh images are copies."
    assert lines[1] == f"Copies removed for 2 of 3 memorized prompts: {copies}"
    assert lines[-1] == f"Next: unmemorize report {run.folder}"
    table = [line.split() for line in lines[5:-2]]
    names = ["ordinary", "screen", "confirm", "localize", "guides", "search", "side"]
    assert [row[0] for row in table] == [*names, "certify", "final"]  # nothing was trained
    assert table[2][1:4] == ["4", "of", "4"]
    assert " ".join(table[2]).endswith("suspects drawn, unedited")
    assert max(map(len, lines)) <= max(80, len(lines[-1]))
    assert "…" not in "".join(lines)
    found = call.answer("status", run.folder)
    assert (found["finished"], found["headline"]) == (True, lines[1])
    stages = [stage["name"].split()[0] for stage in found["stages"]]
    assert stages == [*names, "training", "certify", "final"]
    assert {(stage["pending"], stage["left"]) for stage in found["stages"]} == {(0, None)}
    (run.folder / "before.jsonl").write_text("")
    (run.folder / "mitigation.json").unlink()
    lines = call.text("status", run.folder).splitlines()
    assert lines[0] == "Not finished: mitigation of 5 prompts."
    assert "it does only what is missing" in lines[-1]
    found = call.answer("status", run.folder)
    assert not found["finished"]
    (confirm,) = (stage for stage in found["stages"] if stage["name"] == "confirm")
    assert (confirm["done"], confirm["pending"]) == (0, 4)
    assert "headline" not in found


def test_status_counts_the_rounds_of_a_hardening(call: Call, tmp_path: Path) -> None:
    settings = HardeningRun(
        settings=HardeningSettings(rounds=3, ordinary_images=5),
        edit="{}", controls=(), captions="", descriptor="", clip="",
    )  # fmt: skip
    run = Run.open(
        tmp_path / "run", settings, inputs=Inputs(fingerprint="f", prompts="p"), model="m", items=4
    )
    for kind, count in {"rounds": 2, "attacks": 9, "ordinary-before": 5}.items():
        for index in range(count):
            run.append(kind, index, {"any": 1})
    found = call.answer("status", run.folder)
    pending = {stage["name"]: stage["pending"] for stage in found["stages"]}
    assert pending == {"attacks": 3, "ordinary-before": 0, "rounds": 1}
    assert call.text("status", run.folder).startswith("Not finished: hardening of 4 prompts.")
    run.write("hardening.json", "{}")
    assert call.text("status", run.folder).startswith("Finished: hardening of 4 prompts.")
    ended = call.answer("status", run.folder)["stages"]
    assert {(stage["pending"], stage["left"]) for stage in ended} == {(0, None)}


def test_status_counts_the_attacks_of_an_audit(call: Call, tmp_path: Path) -> None:
    """Seven prompts, one attack of each from one start at four budgets."""
    run = audited_run(tmp_path / "run", None)
    (run.folder / "audit.json").unlink()
    for index in range(9):
        run.append("edited-L4", index, {"any": 1})
    found = call.answer("status", run.folder)
    pending = {stage["name"]: stage["pending"] for stage in found["stages"]}
    assert pending["edited-L4"] == 7 * 4 - 9


def test_status_names_the_stage_that_worked_last(call: Call, tmp_path: Path) -> None:
    run = mitigated_run(tmp_path)
    (run.folder / "mitigation.json").unlink()
    hundredths = [index / 100 for index in range(5)]
    for name, times in (("detections", hundredths), ("localizations", (1e9, 1e9 + 60))):
        path = run.folder / f"{name}.jsonl"
        records = map(json.loads, path.read_text().splitlines())
        kept = [{**record, "at": at} for record, at in zip(records, times, strict=False)]
        path.write_text("".join(f"{json.dumps(record)}\n" for record in kept))
    lines = call.text("status", run.folder).splitlines()
    assert lines[1] == "Last work: localize, stage 4 of 10, about 0:01:00 left."
    (screen,) = [line.split() for line in lines if line.startswith(" screen")]
    assert screen[1:5] == ["5", "of", "5", "6000"]  # a minute
    (stage,) = [
        stage
        for stage in call.answer("status", run.folder)["stages"]
        if stage["name"] == "localize"
    ]
    assert (stage["done"], stage["total"], round(stage["left"])) == (2, 3, 60)


def test_status_counts_the_steps_of_a_training(call: Call, tmp_path: Path) -> None:
    """While it is under way, and in the joined folders of two shards of which one has finished."""
    shards = [mitigated_run(tmp_path / name) for name in "ab"]
    for run in shards:
        (run.folder / "mitigation.json").unlink()
        (run.folder / "text-encoder-0f").mkdir()
        kept = {"steps": torch.tensor(40), "rate": torch.tensor(2.0, dtype=torch.float64)}
        save_file(kept, run.folder / "text-encoder-0f" / "state.safetensors")
    lines = call.text("status", shards[0].folder).splitlines()
    assert lines[1] == "Last work: training, stage 8 of 10, about 0:06:20 left."
    (row,) = [line.split() for line in lines if line.startswith(" training")]
    assert row[1:5] == ["40", "of", "800", "120"]

    def stage(folder: Path) -> tuple[int, int, int]:
        stages = call.answer("status", folder)["stages"]
        (found,) = [each for each in stages if each["name"] == "training"]
        return found["done"], found["total"], found["pending"]

    assert stage(shards[0].folder) == (40, 800, 760)
    (shards[1].folder / "text-encoder-0f.json").write_text("{}")
    merged = tmp_path / "merged"
    call.text("runs", "merge", *(run.folder for run in shards), "-o", merged)
    assert stage(merged) == (800, 800, 0)


def test_status_counts_what_failed(call: Call, finished: Path, tmp_path: Path) -> None:
    run = Run.load(finished / "run")
    assert call.text("status", run.folder).startswith("Finished: localization of 2 prompts.")
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("manifest.json", "prompts.jsonl"):
        (broken / name).write_bytes((run.folder / name).read_bytes())
    Run.load(broken).append("localizations", 0, {"error": "ValueError: x"})
    first = call.text("status", broken).splitlines()[0]
    assert first == "Not finished: localization of 2 prompts. 1 item failed."


def test_diff_shows_settings_verdicts_and_prompts(call: Call, tmp_path: Path) -> None:
    runs = [mitigated_run(tmp_path / "a"), mitigated_run(tmp_path / "b", memorized=4)]
    path = runs[1].folder / "mitigation.json"
    result = json.loads(path.read_text())
    result["outcomes"][1]["status"] = "reduced"
    path.write_text(json.dumps(result))
    folders = [run.folder for run in runs]
    found = call.answer("diff", *folders)
    assert found["only_second"] == ["memorized prompt 3"]
    lines = call.text("diff", *folders).splitlines()
    count = len(found["verdicts"])
    assert lines[:2] == [
        f"{folders[0]}: Copies removed for 2 of 3 memorized prompts: 6 of 36 fresh images are "
        "copies.",
        f"{folders[1]}: Copies removed for 2 of 4 memorized prompts: 6 of 48 fresh images are "
        "copies.",
    ]
    copies = next(line for line in lines if line.strip().endswith("fresh images are copies"))
    assert copies.split()[:2] == ["166.7", "125"]
    assert count == 1
    place = lines.index(
        f"Settings that differ: 1. Verdicts: {count}. Rows without a difference: 3 of 5."
    )
    titles = ["Verdicts and neurons", "Settings", "Scores, largest differences first"]
    assert [line.strip() for line in lines[place:] if line.strip() in titles] == titles
    row = next(line for line in lines if line.strip().endswith("status: memorized prompt 1"))
    assert row.split()[:2] == ["removed", "reduced"]
    assert f"Only in {folders[1]}: 1" in lines
    table = lines[: next(place for place, line in enumerate(lines) if "Only in" in line)]
    assert max(map(len, table[2:])) <= 80
    same = call.text("diff", folders[0], folders[0])
    assert "Settings that differ: 0. Verdicts: 0. Rows" in same


def test_diff_shows_where_long_values_differ(call: Call, tmp_path: Path) -> None:
    """Cut at one place, both sides would look alike."""
    runs = [mitigated_run(tmp_path / name) for name in "ab"]
    for run, word in zip(runs, ("first", "second"), strict=True):
        path = run.folder / "mitigation.json"
        result = json.loads(path.read_text())
        result["outcomes"][1]["rung"] = f"keys and values of all layers, like its {word} guide"
        path.write_text(json.dumps(result))
    lines = call.text("diff", *(run.folder for run in runs)).splitlines()
    row = next(line for line in lines if line.strip().endswith("rung: memorized prompt 1"))
    assert "...its first guide" in row
    assert "...its second guide" in row


def test_diff_shows_how_close_scores_differ(call: Call, tmp_path: Path) -> None:
    """With four digits each, both would look alike."""
    runs = [mitigated_run(tmp_path / name) for name in "ab"]
    for run, score in zip(runs, (0.23012, 0.23014), strict=True):
        path = run.folder / "mitigation.json"
        result = json.loads(path.read_text())
        result["outcomes"][1]["alignment_after"] = score
        path.write_text(json.dumps(result))
    lines = call.text("diff", *(run.folder for run in runs)).splitlines()
    (row,) = [line.split() for line in lines if "alignment_after: memorized prompt 1" in line]
    assert row[:2] == ["0.23012", "0.23014"]


def test_the_verdict_of_a_mitigation_stands_first(call: Call, tmp_path: Path) -> None:
    run = mitigated_run(tmp_path)
    result = MitigationResult.load(run)
    with _console.console.capture() as printed:
        print_mitigation(result, 0.95)
    lines = printed.get().splitlines()
    assert lines[0] == result.headline
    assert max(map(len, lines)) <= 80
    rows = [line for line in lines if "memorized prompt 1" in line]
    assert [row.split()[:3] for row in rows] == [["removed", "3/4", "0/12"]]


def test_a_mitigation_names_the_wordings_that_still_copy(call: Call, tmp_path: Path) -> None:
    result = MitigationResult.load(copied_by_a_paraphrase(mitigated_run(tmp_path)))
    with _console.console.capture() as printed:
        print_mitigation(result, 0.95)
    lines = printed.get().splitlines()
    said = "Other wordings (no verdict): 2 of 2 images are copies, under 1 of 1."
    assert lines[2:4] == [said, "  “another wording”: 2 of 2 images"]
    assert max(map(len, lines)) <= 80
    rows = [line.split() for line in lines[4:] if "memorized prompt" in line]
    assert [row[:6] for row in rows] == [
        ["removed", "3/4", "0/12", "22.1", "%", "2/2"],
        ["removed", "3/4", "0/12", "22.1", "%", "memorized"],
    ]


def test_an_audit_says_how_it_gets_into_the_report_of_the_edit(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report of a mitigation shows the audits in its own folder, and no others."""
    mitigated_run(tmp_path)
    monkeypatch.chdir(tmp_path)
    hints = []
    for edited, audited in (
        (Path("run"), Path("run/audit/first")),
        (Path("run"), tmp_path / "run" / "audit" / "first"),
        (Path("run"), Path("an audit")),
        (Path("neurons.json"), Path("audit")),
        (None, Path("audit")),
    ):
        with _console.console.capture() as printed:
            print_next(edited, audited)
        hints.append(" ".join(printed.get().split()))
    assert hints[:2] == ["Next: unmemorize report run"] * 2
    assert hints[2] == (
        "Next: mkdir -p run/audit && mv 'an audit' run/audit && unmemorize report run"
    )
    assert [hint.startswith("Next: the same command") for hint in hints[3:]] == [True, True]


def test_the_verdicts_of_an_audit_stand_first(call: Call, tmp_path: Path) -> None:
    from unmemorize import AuditResult

    with _console.console.capture() as printed:
        print_audit(AuditResult.load(audited_run(tmp_path / "run", None)))
    lines = printed.get().splitlines()
    assert lines[0] == "L4, 25 steps: no cheaper than never-trained images"
    assert max(map(len, lines[:8])) <= 80
    assert next(line.split() for line in lines[1:] if line.strip().startswith("L4 ")) == [
        *("L4", "25", "1/6", "0.56", "0.29")
    ]


def test_the_strongest_verdict_of_a_ladder_is_the_headline(call: Call, tmp_path: Path) -> None:
    from dataclasses import replace

    from unmemorize import AuditResult

    result = AuditResult.load(audited_run(tmp_path / "run", None))
    (outcome,) = result.attacks
    first, last = outcome.verdicts
    early = replace(first, verdict="cheaper than never-trained: p = 0.01; 6 of 6 triggered")
    later = replace(last, budget=50, verdict="cheaper than never-trained: p = 0.002")
    outcome = replace(outcome, verdicts=(early, last, later))
    with _console.console.capture() as printed:
        print_audit(replace(result, attacks=(outcome,)))
    lines = printed.get().splitlines()
    assert lines[0] == f"L4, 5 steps: {early.verdict}"
    (bound,) = [line for line in lines if "at each budget" in line]
    assert "in at most 0.0476 of cases" in bound
    assert bound.endswith("within 3 budgets in at most 0.143.")


def test_colours_are_left_out_where_the_user_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("FORCE_COLOR", "1")
    plain = type(_console.console)(force_terminal=True)
    with plain.capture() as printed:
        plain.print("Next", style="red")
    assert "31m" not in printed.get()
