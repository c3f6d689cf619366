"""How a mitigation stands, stage by stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mitigated_run import CONTROL, DIGEST, ORDINARY, OTHER, mitigated_run, texts
from unmemorize import Run
from unmemorize._files import to_json
from unmemorize.mitigation import MitigationRun, Standing, standings
from unmemorize.mitigation._starts import starts_of
from unmemorize.runs import Status, status_of

Counts = dict[str, tuple[int, int | None, str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return mitigated_run(tmp_path)


def counts(run: Run) -> Counts:
    return {row.stage: (row.done, row.total, row.what) for row in standings(run, status_of(run))}


def test_a_finished_mitigation(run: Run) -> None:
    """Of 5 suspects 4 are called and 3 confirmed. Control and second looks are told apart."""
    starts = sum(len(starts_of(text)) for text in texts(3)[:3])
    assert counts(run) == {
        "ordinary": (ORDINARY, ORDINARY, "ordinary captions, drawn"),
        "screen": (5, 5, "suspects scored"),
        "confirm": (4, 4, "suspects drawn, unedited"),
        "localize": (3, 3, "memorized prompts"),
        "guides": (starts, None, "guides that were scored"),
        "search": (6, None, "prompts, under 2 edits"),
        "side effects": (ORDINARY, ORDINARY, "images, 1 edit"),
        "training": (0, None, "steps, 0 trainings"),
        "certify": (3, 3, "prompts on fresh seeds"),
        "final": (3 + 3 + 1 + 1 + ORDINARY, None, "images for the report"),
    }


def test_totals_are_told_as_soon_as_they_are_known(run: Run) -> None:
    for kind in ("confirmations", "localizations", f"certificate-1-{DIGEST}"):
        (run.folder / f"{kind}.jsonl").unlink()
    found = counts(run)
    assert [found[stage][:2] for stage in ("confirm", "localize", "certify")] == [
        (4, 4),
        (0, None),
        (0, None),
    ]
    path = run.folder / "detections.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    found = counts(run)
    assert [found[stage][:2] for stage in ("screen", "confirm")] == [(3, 5), (4, None)]


@pytest.mark.parametrize(("clip", "sets"), [("5" * 64, 2), ("", 1)])
def test_a_second_set_of_ordinary_images_is_expected_with_a_clip_alone(
    tmp_path: Path, clip: str, sets: int
) -> None:
    run = mitigated_run(tmp_path)
    settings = run.settings(MitigationRun)
    settings = replace(settings, settings=replace(settings.settings, distances=True), clip=clip)
    run.manifest = replace(run.manifest, settings=to_json(settings))
    assert rows(run, state("ordinary-before", 4))["ordinary"].total == sets * ORDINARY


def state(name: str, done: int, *, rate: float | None = None, idle: float | None = 9.0) -> Status:
    return Status(name, done, 0, 0, rate, None, idle, ())


def rows(run: Run, *states: Status) -> dict[str, Standing]:
    return {row.stage: row for row in standings(run, states)}


def test_the_sets_of_ordinary_images(run: Run) -> None:
    """The edits of the search take a sample (3 of 19), the one that is exported all of them."""
    found = rows(
        run,
        state("ordinary-before", 19),
        state("ordinary-other", 4),
        state(f"ordinary-{OTHER}", 2),
        state(f"ordinary-{DIGEST}", 5),
        state(f"ordinary-{CONTROL}", 3),
        state(f"control-{CONTROL}", 1),
    )
    assert (found["ordinary"].done, found["ordinary"].total) == (23, 38)
    assert (found["side effects"].done, found["side effects"].total) == (7, 3 + 19)
    assert (found["final"].done, found["final"].total) == (4, None)
    assert found["side effects"].what == "images, 2 edits"


@pytest.mark.parametrize(("part", "steps"), [("denoiser", 600), ("text-encoder", 800)])
def test_steps_of_trainings(run: Run, part: str, steps: int) -> None:
    """One is under way, one is finished, and one is finished whose files were left behind."""
    begun = run.folder / f"{part}-{OTHER}"
    begun.mkdir()
    assert counts(run)["training"] == (0, steps, "steps, 1 training")
    kept = {"steps": torch.tensor(40), "rate": torch.tensor(2.0, dtype=torch.float64)}
    save_file(kept, begun / "state.safetensors")
    for name in (DIGEST, CONTROL):
        (run.folder / f"{part}-{name}.json").write_text("{}")
    (run.folder / f"{part}-{CONTROL}").mkdir()
    save_file(kept, run.folder / f"{part}-{CONTROL}" / "state.safetensors")
    assert counts(run)["training"] == (40 + 2 * steps, 3 * steps, "steps, 3 trainings")
    (row,) = [row for row in standings(run, []) if row.stage == "training"]
    assert row.idle is not None
    assert 0 <= row.idle < 60
    assert row.left == (steps - 40) / 2.0
    (run.folder / f"{part}-{OTHER}.json").write_text("{}")
    (row,) = [row for row in standings(run, []) if row.stage == "training"]
    assert (row.done, row.total, row.rate, row.idle) == (3 * steps, 3 * steps, None, None)


def test_attempts_have_no_total(run: Run) -> None:
    found = rows(run, state(f"certificate-1-{OTHER}", 3), state(f"certificate-2-{DIGEST}", 1))
    certify = found["certify"]
    assert (certify.done, certify.total, certify.what) == (4, None, "prompts, 2 attempts")


def test_rate_and_pause_are_those_of_the_latest_work(run: Run) -> None:
    found = rows(
        run,
        state(f"search-{OTHER}", 3, rate=1.0, idle=50.0),
        state(f"search-{OTHER}-again", 1, rate=2.0, idle=7.0),
        state("confirmations", 4, idle=None),
    )
    search = found["search"]
    assert (search.done, search.rate, search.idle, search.left) == (3, 2.0, 7.0, None)
    assert found["confirm"].idle is None


def test_the_time_left() -> None:
    row = Standing("screen", "suspects scored", 2, 5, 0.5, 1.0)
    assert row.left == 6.0
    assert replace(row, done=5).left is None
    assert replace(row, total=None).left is None
    assert replace(row, rate=None).left is None
