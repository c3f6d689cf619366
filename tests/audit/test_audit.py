"""A whole audit on a tiny random pipeline, in all arms."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from architectures import make
from colours import noise
from conftest import make_pipeline
from unmemorize import (
    AuditError,
    AuditResult,
    AuditSettings,
    GenerationSettings,
    Model,
    NeuronEdit,
    Neurons,
    Prompt,
    RunError,
    UnfinishedError,
    audit_edit,
    copy_scores,
)
from unmemorize._files import from_json
from unmemorize.audit import (
    AttackSettings,
    AuditInputs,
    AuditRun,
    Bench,
    Twin,
    _stages,
    audit_all,
    audit_totals,
    forecast_audit,
    make_attacks,
    open_audit,
)
from unmemorize.audit._arms import Arm, ordinary_targets
from unmemorize.audit._records import read_attacks
from unmemorize.audit._stages import AttackStages
from unmemorize.audit._targets import targets_of
from unmemorize.audit._task import AttackTask
from unmemorize.engines import Execution, InProcess, Shard
from unmemorize.generation import CombinedEdit, Edit, WeightEdit, generate_each
from unmemorize.mitigation import derived_seed, unannounced
from unmemorize.runs import Inputs, Run, _drive, status_of

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
CAPTIONS = ("a dog", "a house", "a tree by the sea")
SETTINGS = AuditSettings(
    levels=("L0", "L4"),
    steps=(0, 2),
    starts=("prompt",),
    seeds=1,
    images=2,
    batch=2,
    ordinary_images=1,
    generation=GenerationSettings(steps=2, guidance=3.0, batch=2),
)


class Pixels:
    """A descriptor: the pixels of an image, each channel relative to its mean."""

    name, digest = "pixels", "p" * 64

    def __call__(self, images: Any) -> torch.Tensor:
        small = [image.convert("RGB").resize((16, 16)) for image in images]
        rows = np.stack([np.asarray(image, np.float32) for image in small])
        rows = (rows - rows.mean((1, 2), keepdims=True)).reshape(len(images), -1)
        return torch.nn.functional.normalize(torch.from_numpy(rows), dim=1)


class Noting(InProcess):
    """An engine that notes by which model each stage is worked on."""

    def __init__(self) -> None:
        self.models: list[Model] = []

    def outcomes(self, model: Model, task: Any, units: Any) -> Any:
        self.models.append(model)
        return super().outcomes(model, task, units)


@pytest.fixture(name="model", scope="module")
def model_fixture() -> Model:
    return Model(make("Stable Diffusion"))


@pytest.fixture(name="files", scope="module")
def files_fixture(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    files = [folder / f"{number}.png" for number in range(4)]
    for number, path in enumerate(files):
        noise(number, (32, 32)).save(path)
    return files


@pytest.fixture(name="inputs", scope="module")
def inputs_fixture(files: list[Path]) -> AuditInputs:
    return AuditInputs(
        edit=NeuronEdit(Neurons({LAYER: [0, 1, 2]})),
        captions=CAPTIONS,
        descriptor=Pixels(),
        controls=tuple(files[2:]),
    )


@pytest.fixture(name="prompts", scope="module")
def prompts_fixture(files: list[Path]) -> list[Prompt]:
    return [
        Prompt("red cat", "VM", images=(files[0],)),
        Prompt("blue cat", "VM", images=(files[1],)),
    ]


@pytest.fixture(name="finished", scope="module")
def finished_fixture(
    model: Model,
    inputs: AuditInputs,
    prompts: list[Prompt],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[AuditResult, Run]:
    run = open_audit(tmp_path_factory.mktemp("audit") / "run", model, prompts, inputs, SETTINGS)
    return audit_all(run, model, inputs), run


def records(run: Run) -> dict[str, list[dict[str, Any]]]:
    """All records, without the time that they took."""
    return {
        path.stem.split(".")[0]: [
            {name: value for name, value in record.items() if name != "seconds"}
            for _, record in run.stream(path.stem.split(".")[0])
        ]
        for path in sorted(run.folder.glob("*-L*.jsonl"))
    }


def test_a_second_model_is_loaded_for_attacks_without_an_image_alone(
    inputs: AuditInputs, finished: tuple[AuditResult, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was loaded beside a twin for each attack and budget, and never asked."""
    model, twin = (cast(Any, SimpleNamespace(fingerprint=each, loading=each)) for each in "mt")
    tasks: list[AttackTask] = []
    monkeypatch.setattr(_stages, "drive_to_end", lambda _, __, task, *___: tasks.append(task))
    stages = AttackStages(finished[1], model, SETTINGS, inputs, (), Execution(), unannounced)
    for attack in make_attacks(("L0", "L4", "L4-imageless"), AttackSettings()):
        for attacked in (model, twin):
            stages.attacked(attack, Arm("never-trained", "", attacked, None, (), ()))
    teachers: list[Any] = [(task.kind, task.teacher) for task in tasks]
    free, imageless = "never-trained-L4", "never-trained-L4-imageless"
    alone = [("never-trained-L0", None)] * 2 + [(free, None)] * 4 + [(imageless, None)] * 2
    assert teachers == [*alone, (imageless, "m"), (imageless, "m")]


def test_all_arms_are_attacked_at_all_budgets(finished: tuple[AuditResult, Run]) -> None:
    result, run = finished
    counts = {kind: len(lines) for kind, lines in records(run).items()}
    targets = {"edited": 2, "unedited": 2, "never-trained": 2, "random": 2, "ordinary": 1}
    assert counts == {
        **{f"{arm}-L0": count for arm, count in targets.items()},
        **{f"{arm}-L4": count * 2 for arm, count in targets.items()},  # budgets
    }
    assert audit_totals(run) == counts
    assert [outcome.attack for outcome in result.attacks] == ["L0", "L4"]
    free = result.attacks[1]
    assert [verdict.budget for verdict in free.verdicts] == [0, 2]
    assert (free.last.images, free.last.controls, free.last.paired) == (2, 2, False)
    assert free.last.false_triggers == 0.334  # the smallest that 2 controls allow
    assert result.never_trained.startswith("other images")
    assert result.free_numbers == (16 * 16, 4 * 16 * 16)
    assert {"L5", "L6"} <= set(result.not_tried)
    assert AuditResult.load(run) == result


def test_the_status_of_an_audit_tells_what_is_left(
    finished: tuple[AuditResult, Run], tmp_path: Path
) -> None:
    """Nothing was pending as soon as a stage had as many records as there are prompts."""
    shutil.copytree(finished[1].folder, tmp_path / "run")
    run = Run.load(tmp_path / "run")
    lines = (run.folder / "edited-L4.jsonl").read_text().splitlines(keepends=True)
    (run.folder / "edited-L4.jsonl").write_text("".join(lines[:2]))
    states = {each.name: each for each in status_of(run, audit_totals(run))}
    left = {name: state.pending for name, state in states.items() if state.pending}
    assert (states["edited-L4"].done, left) == (2, {"edited-L4": 2})


def test_the_records_of_controls_and_twins_are_counted_before(tmp_path: Path) -> None:
    """Prompts 1 and 3 show one image, so the second of four controls has two captions."""
    made_of = AuditRun(
        settings=SETTINGS, edit="", controls=("1", "2", "3", "4"), twins=(), captions="",
        descriptor="", joined=("1, 3",),
    )  # fmt: skip
    twinned = replace(made_of, twins=("f for 0, 2, 4", "g for 1, 3"))
    counts = []
    for number, settings in enumerate((made_of, twinned)):
        inputs = Inputs(fingerprint="f")
        run = Run.open(tmp_path / f"{number}", settings, inputs=inputs, model="m", items=5)
        counts.append(audit_totals(run))
    assert (counts[0]["edited-L0"], counts[0]["edited-L4"]) == (5, 5 * 2)
    assert (counts[0]["never-trained-L0"], counts[0]["never-trained-L4"]) == (5, 5 * 2)
    assert (counts[1]["never-trained-1-L4"], counts[1]["never-trained-2-L4"]) == (3 * 2, 2 * 2)


def test_the_unedited_arm_without_steps_is_the_ordinary_copy_score(
    finished: tuple[AuditResult, Run], model: Model, prompts: list[Prompt]
) -> None:
    _, run = finished
    (target, *_) = targets_of(prompts)
    seeds = [derived_seed("audit image", model.fingerprint, target.key, n) for n in range(2)]
    images = generate_each(
        model,
        ["red cat"] * 2,
        [None] * 2,
        settings=replace(SETTINGS.generation, images=1),
        seeds=seeds,
    )
    descriptor = Pixels()
    references = descriptor([Image.open(prompts[0].images[0])])
    expected = copy_scores(descriptor([image for (image,) in images]), references).tolist()
    plain, free = read_attacks(run, "unedited-L0")[0], read_attacks(run, "unedited-L4")[0]
    assert list(plain.scores) == expected
    assert (free.budget, free.start, list(free.scores)) == (0, "prompt", expected)


def test_an_image_has_its_best_seed_too(finished: tuple[AuditResult, Run]) -> None:
    result, run = finished
    image = next(each for each in result.images if (each.arm, each.attack) == ("edited", "L4"))
    first, second = read_attacks(run, "edited-L4")[:2]
    assert image.best == (max(first.scores), max(*first.scores, *second.scores))
    assert image.best[0] > image.scores[0]
    content = result.to_json()
    for each in content["images"]:
        del each["best"]
    del content["remarks"]
    old = from_json(AuditResult, content, RunError, "", "")
    assert old.images[0] == replace(result.images[0], best=())


def test_records_say_what_was_found(finished: tuple[AuditResult, Run]) -> None:
    _, run = finished
    start, later = read_attacks(run, "edited-L4")[:2]
    assert (start.samples, later.samples) == (0, 2 * 2 * 3)
    assert start.distance == pytest.approx(0, abs=1e-6)
    assert start.gains == pytest.approx([0.0] * 5, abs=1e-6)
    assert later.distance is not None
    assert later.distance > 0
    assert later.spread is not None
    assert 1 <= later.spread <= 16
    assert len(later.gains) == 5
    assert any(gain != 0 for gain in later.gains)
    for name in (later.state, later.image):
        assert (run.folder / name).exists()


def test_an_audit_goes_on_with_its_own_model_only(
    finished: tuple[AuditResult, Run], inputs: AuditInputs
) -> None:
    other = make_pipeline()
    torch.nn.init.zeros_(other.unet.conv_out.weight)
    with pytest.raises(RunError, match="which is not the model given"):
        audit_all(finished[1], other, inputs)


def test_a_finished_audit_does_nothing_and_another_one_is_refused(
    finished: tuple[AuditResult, Run], model: Model, prompts: list[Prompt], inputs: AuditInputs
) -> None:
    result, run = finished
    before = {path: path.stat().st_mtime_ns for path in run.folder.rglob("*.png")}
    same = open_audit(run.folder, model, prompts, inputs, SETTINGS)
    assert audit_all(same, model, inputs) == result
    assert {path: path.stat().st_mtime_ns for path in run.folder.rglob("*.png")} == before
    other = replace(inputs, edit=NeuronEdit(Neurons({LAYER: [3]})))
    with pytest.raises(RunError, match="edit"):
        open_audit(run.folder, model, prompts, other, SETTINGS)


def test_another_training_image_of_the_same_name_is_refused(
    model: Model, files: list[Path], inputs: AuditInputs, tmp_path: Path
) -> None:
    """The scores on record compare with the old image."""
    image, moved = tmp_path / "cat.png", tmp_path / "moved" / "cat.png"
    moved.parent.mkdir()
    for path in (image, moved):
        shutil.copyfile(files[0], path)
    open_audit(tmp_path / "run", model, [Prompt("cat", images=(image,))], inputs, SETTINGS)
    again = open_audit(tmp_path / "run", model, [Prompt("cat", images=(moved,))], inputs, SETTINGS)
    assert again.folder == tmp_path / "run"
    shutil.copyfile(files[1], image)
    with pytest.raises(RunError, match=r"references = .*another folder"):
        open_audit(tmp_path / "run", model, [Prompt("cat", images=(image,))], inputs, SETTINGS)


def test_an_edit_of_the_text_encoder_is_refused(
    model: Model, prompts: list[Prompt], inputs: AuditInputs, tmp_path: Path
) -> None:
    """Alone and beside other edits. The denoiser under it is the unedited one."""
    name = "text_encoder.encoder.layers.0.mlp.fc1.weight"
    weights = dict(model.pipe.text_encoder.named_parameters())
    moved = WeightEdit({name: torch.ones_like(weights[name.partition(".")[2]])})
    assert inputs.edit is not None
    edits: tuple[Edit, ...] = (moved, CombinedEdit((moved, inputs.edit)))
    for number, edit in enumerate(edits):
        other = replace(inputs, edit=edit)
        run = open_audit(tmp_path / f"{number}", model, prompts, other, SETTINGS)
        with pytest.raises(AuditError, match=r"text encoder.*nothing to find out"):
            audit_all(run, model, other)


@pytest.mark.slow
def test_shards_in_any_order_give_the_same(
    finished: tuple[AuditResult, Run],
    model: Model,
    prompts: list[Prompt],
    inputs: AuditInputs,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    result, run = finished
    other = open_audit(tmp_path / "run", model, prompts, inputs, SETTINGS)
    with pytest.raises(UnfinishedError, match="left to other shards"):
        audit_all(other, model, inputs, execution=Execution(shard=Shard(2, 2)))
    monkeypatch.setattr(_drive, "_POLL", 0.05)

    models = [Model(make("Stable Diffusion")) for _ in range(2)]

    def work(number: int) -> AuditResult:
        execution = Execution(shard=Shard(number, 2), patience=60)
        return audit_all(other, models[number - 1], inputs, execution=execution)

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(work, (1, 2))) == [result, result]
    assert records(other) == records(run)


def test_attacks_that_run_together_say_the_same_and_resume_exactly(
    finished: tuple[AuditResult, Run],
    model: Model,
    prompts: list[Prompt],
    inputs: AuditInputs,
    tmp_path: Path,
) -> None:
    alone, _ = finished
    settings = replace(SETTINGS, together=2, generation=replace(SETTINGS.generation, batch=4))
    run = open_audit(tmp_path / "run", model, prompts, inputs, settings)
    result = audit_all(run, model, inputs)
    for one, two in zip(alone.images, result.images, strict=True):
        assert two.scores == pytest.approx(one.scores, abs=1e-3)
    whole = records(run)
    path = run.folder / "edited-L4.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-1]))  # as if it had been killed between two records
    again = open_audit(tmp_path / "run", model, prompts, inputs, settings)
    assert audit_all(again, model, inputs) == result
    assert records(again) == whole


def test_a_twin_is_compared_image_by_image(
    model: Model, prompts: list[Prompt], inputs: AuditInputs, tmp_path: Path
) -> None:
    twin = Twin(Model(make("Stable Diffusion", seed=1)), (0, 1))
    twinned = replace(inputs, twins=(twin,), controls=())
    settings = replace(
        SETTINGS, levels=("L0", "L4"), steps=(0,), starts=("prompt",), ordinary_images=0,
        attacks=AttackSettings(rate=0.0), images=1,
    )  # fmt: skip
    run = open_audit(tmp_path / "run", model, prompts, twinned, settings)
    assert run.settings(AuditRun).twin_prompts == ((0, 1),)
    engine = Noting()
    result = audit_all(run, model, twinned, execution=Execution(engine=engine))
    totals = {kind: count for kind, count in audit_totals(run).items() if count}
    assert totals == {kind: len(lines) for kind, lines in records(run).items()}
    assert [key for key, _ in groupby(engine.models)] == [model, twin.model]
    for outcome in result.attacks:
        edited, never = (read_attacks(run, f"{arm}-{outcome.attack}") for arm in
                         ("edited", "never-trained-1"))  # fmt: skip
        change = [one.scores[0] - two.scores[0] for one, two in zip(edited, never, strict=True)]
        assert outcome.last.paired
        assert outcome.last.difference == pytest.approx(np.mean(change))
    assert result.never_trained == "the same images in a model that never saw them"


def test_without_edit_and_controls_there_is_no_verdict(model: Model, files: list[Path]) -> None:
    settings = replace(SETTINGS, levels=("L0", "L6"), ordinary_images=0, images=1)
    result = audit_edit(
        model,
        None,
        [Prompt("red cat", images=(files[0],))],
        settings=settings,
        captions=CAPTIONS,
        descriptor=Pixels(),
    )
    (outcome,) = result.attacks
    assert outcome.last.verdict == "not tested"
    assert outcome.last.tau is None
    assert {image.arm for image in result.images} == {"edited"}
    assert "at least 2 prompts" in result.impossible["L6"]


def test_prompts_need_an_image(model: Model, inputs: AuditInputs, tmp_path: Path) -> None:
    with pytest.raises(AuditError, match=r"red cat.*--references"):
        audit_edit(model, inputs.edit, ["red cat"], captions=CAPTIONS, folder=tmp_path / "run")


@pytest.mark.parametrize(("captions", "count"), [((), 0), (("a dog",), 1), (("a dog",) * 30, 1)])
def test_two_different_ordinary_captions_are_needed_before_the_work(
    model: Model,
    prompts: list[Prompt],
    inputs: AuditInputs,
    tmp_path: Path,
    captions: tuple[str, ...],
    count: int,
) -> None:
    few = replace(inputs, captions=captions)
    with pytest.raises(AuditError, match=f"^{count} different ordinary caption"):
        open_audit(tmp_path / "run", model, prompts, few, SETTINGS)
    assert not (tmp_path / "run").exists()


def test_captions_that_are_named_often_do_not_make_the_unit_zero(model: Model) -> None:
    often = Bench(model, None, ("a dog",) * 30 + CAPTIONS)
    assert often.scale == Bench(model, None, ("a dog", *CAPTIONS)).scale > 0


def test_audited_images_are_no_controls(
    model: Model, prompts: list[Prompt], inputs: AuditInputs, files: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(AuditError, match="among the controls"):
        open_audit(tmp_path, model, prompts, replace(inputs, controls=tuple(files)), SETTINGS)
    with pytest.raises(AuditError, match="no prompt"):
        audit_edit(model, inputs.edit, [], captions=CAPTIONS, descriptor=Pixels())


def test_a_layout_is_compared_where_there_are_several_images(
    files: list[Path], tmp_path: Path
) -> None:
    halves = []
    for number in range(2):
        image = Image.open(files[0]).copy()
        image.paste((90 * number, 200, 255 * number), (0, 0, 32, 16))
        halves.append(tmp_path / f"{number}.png")
        image.save(halves[-1])
    (template,) = targets_of([Prompt("red cat", "TM", images=tuple(halves))])
    (single,) = targets_of([Prompt("red cat", "VM", images=tuple(halves))])
    assert (len(template.images), len(single.images)) == (2, 1)
    (twice,) = targets_of([Prompt("red cat", "TM", images=(*halves, halves[0]))])
    assert len(twice.images) == 2  # all of an image would be its layout


def test_the_forecast_counts_what_is_spent(
    finished: tuple[AuditResult, Run], model: Model, inputs: AuditInputs, prompts: list[Prompt]
) -> None:
    _, run = finished
    spent = 0
    for kind, lines in records(run).items():
        per_image = 2 * 2  # steps and halves
        spent += sum(len(line["scores"]) * per_image for line in lines)
        if kind.endswith("L4"):
            spent += sum(line["samples"] for line in lines)  # nothing at 0 steps
    cost = forecast_audit(model, SETTINGS, inputs, prompts)
    assert cost.total == spent
    assert cost.attacked == 9
    assert cost.seconds > 0


def test_the_forecast_leaves_out_what_is_not_attacked(
    model: Model, inputs: AuditInputs, prompts: list[Prompt]
) -> None:
    """Other images have no image-free attack, and one prompt has no others to learn from."""
    tried = replace(SETTINGS, levels=("L4-imageless", "L6"))
    images = 2 * 2 * 2 * 2  # budgets, images, steps, halves
    imageless, relearned = 4 * 30 + 2 * 2 * 4 + images, 2 * 2 * 3 + images
    cost = forecast_audit(model, tried, inputs, prompts)
    assert cost.samples == {
        "L4-imageless": (3 * 2 + 1) * imageless,
        "L6": (3 * 2 + 2 + 1) * relearned,
    }
    assert (cost.attacked, cost.impossible) == (9, {})
    cost = forecast_audit(model, tried, inputs, prompts[:1])
    assert cost.samples == {"L4-imageless": (3 + 1) * imageless}
    assert cost.attacked == 4
    assert "at least 2 prompts" in cost.impossible["L6"]
    few = replace(SETTINGS, ordinary_images=50)
    assert forecast_audit(model, few, inputs, prompts).attacked == 3 * 2 + 2 + len(CAPTIONS)


def test_an_audited_caption_is_not_attacked_as_an_ordinary_one(
    model: Model, inputs: AuditInputs, prompts: list[Prompt]
) -> None:
    asked = [replace(prompts[0], paraphrases=("a house",)), prompts[1]]
    among = (prompts[1].text, *CAPTIONS)
    one = replace(SETTINGS, ordinary_images=2)
    chosen = ordinary_targets(model, among, asked, one)
    assert [target.prompt for target in chosen] == ["a dog", "a tree by the sea"]
    all_of_them = replace(one, ordinary_images=50)
    cost = forecast_audit(model, all_of_them, replace(inputs, captions=among), asked)
    assert cost.attacked == 3 * 2 + 2 + 2


def test_what_cannot_be_compared_with_is_refused_before_the_work(
    model: Model, inputs: AuditInputs, prompts: list[Prompt], files: list[Path], tmp_path: Path
) -> None:
    itself = replace(inputs, twins=(Twin(Model(make("Stable Diffusion")), (0, 1)),), controls=())
    among = replace(inputs, controls=tuple(files))
    for unfit, reason in ((itself, "the audited model itself"), (among, "among the controls")):
        with pytest.raises(AuditError, match=reason):
            open_audit(tmp_path / "run", model, prompts, unfit, SETTINGS)
        with pytest.raises(AuditError, match=reason):
            forecast_audit(model, SETTINGS, unfit, prompts)
    with pytest.raises(AuditError, match="--controls does not go with --twin"):
        replace(itself, controls=inputs.controls)
    replace(itself, controls=inputs.controls, shipped=True)  # nobody has named those


def test_an_image_counts_once_and_a_template_as_a_whole(
    model: Model, inputs: AuditInputs, files: list[Path], tmp_path: Path
) -> None:
    copy = tmp_path / "copy.bmp"
    Image.open(files[0]).save(copy)
    prompts = [
        Prompt("red cat", "VM", images=(files[0],)),
        Prompt("a mug", "TM", images=(files[1], files[0])),
        Prompt("blue cat", "VM", images=(copy,)),
        Prompt("a rug", "TM", images=(saved(tmp_path, 8), saved(tmp_path, 9))),
    ]
    settings = replace(SETTINGS, levels=("L0",), arms=("never-trained",))
    run = open_audit(tmp_path / "run", model, prompts, inputs, settings)
    result = audit_all(run, model, inputs)
    (outcome,) = result.attacks
    assert (outcome.last.images, outcome.last.controls, outcome.last.unjudged) == (2, 2, 0)
    edited = read_attacks(run, "edited-L0")
    assert {record.measure for record in edited} == {"image"}
    medians = [float(np.median(record.scores)) for record in edited]
    first, second = (image for image in result.images if image.arm == "edited")
    assert (first.index, first.scores) == (0, (max(medians[:3]),))
    assert (second.index, second.scores) == (3, (medians[3],))
    never = read_attacks(run, "never-trained-L0")
    captions = ["red cat", "a mug", "blue cat", "a rug"]
    assert [record.prompt for record in never] == captions
    assert [image.index for image in result.images if image.arm == "never-trained"] == [0, 1]
    assert "Prompts 0, 1, 2 show the same image" in result.remarks[0]
    assert "by the first of their images: 2" in result.remarks[1]
    manifest = run.settings(AuditRun)
    assert (manifest.joined, manifest.whole) == (("0, 1, 2",), (1, 3))
    layouts = replace(settings, arms=())
    run = open_audit(tmp_path / "scores", model, prompts, inputs, layouts)
    assert run.settings(AuditRun).whole is None
    assert run.settings(AuditRun).joined == ("0, 2",)


def saved(folder: Path, seed: int) -> Path:
    noise(seed, (32, 32)).save(folder / f"{seed}.png")
    return folder / f"{seed}.png"


@pytest.mark.slow
def test_frozen_attacks_find_the_same_at_all_budgets(
    model: Model, inputs: AuditInputs, prompts: list[Prompt], tmp_path: Path
) -> None:
    """Bit for bit: what they hold, how it scores, and what it draws."""
    levels = ("L2", "L3", "L4", "L2-imageless", "L3-imageless", "L4-imageless", "L6")
    settings = replace(
        SETTINGS,
        levels=levels,
        steps=(0, 1, 3),
        arms=(),
        images=1,
        attacks=AttackSettings(positions=(1, None), radii=(0.5, None), rate=0.0),
    )
    run = open_audit(tmp_path / "run", model, prompts, inputs, settings)
    audit_all(run, model, inputs)
    kinds = records(run)
    assert len(kinds) == 5 + 2 * 3  # each L3 has three forms
    for kind, lines in kinds.items():
        assert [line["budget"] for line in lines] == [0, 1, 3] * 2, kind
        for place in (0, 3):
            same = [(line["scores"], kept(run, line)) for line in lines[place : place + 3]]
            assert same[0] == same[1] == same[2], kind


def kept(run: Run, line: dict[str, Any]) -> tuple[bytes, dict[str, bytes]]:
    """The image of a record, and its state but for the moments of the optimizer."""
    tensors = load_file(run.folder / line["state"])
    moved = {name: value for name, value in tensors.items() if ".exp_avg" not in name}
    return (run.folder / line["image"]).read_bytes(), {
        name: value.numpy().tobytes() for name, value in moved.items()
    }


def test_settings_refuse_what_makes_no_ladder() -> None:
    with pytest.raises(AuditError, match="rise from 0"):
        AuditSettings(steps=(5, 10))
    with pytest.raises(AuditError, match="L9"):
        AuditSettings(levels=("L9",))
    with pytest.raises(AuditError, match="starts"):
        AuditSettings(starts=())
    with pytest.raises(AuditError, match="seeds=0"):
        AuditSettings(seeds=0)
    with pytest.raises(AuditError, match="alpha=1"):
        AuditSettings(alpha=1)


def test_arms_can_be_left_out(
    model: Model, inputs: AuditInputs, prompts: list[Prompt], tmp_path: Path
) -> None:
    settings = replace(SETTINGS, levels=("L0",), arms=("never-trained",))
    run = open_audit(tmp_path / "run", model, prompts, inputs, settings)
    result = audit_all(run, model, inputs)
    assert result.attacks[0].last.medians.keys() == {"edited", "never-trained"}
    assert records(run).keys() == {"edited-L0", "never-trained-L0"}
    assert forecast_audit(model, settings, inputs, prompts).attacked == 2 + 2
    only = replace(settings, arms=())
    assert forecast_audit(model, only, inputs, prompts).attacked == 2
    with pytest.raises(AuditError, match="Choose edited or unedited"):
        replace(SETTINGS, arms=("nobody",))  # type: ignore[arg-type]
