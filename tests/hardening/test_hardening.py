"""A whole hardening on a tiny random pipeline: what it trains, judges and leaves, and resuming."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline
from filelock import FileLock, Timeout
from safetensors.torch import load_file

from architectures import make
from colours import Pixels, noise
from conftest import make_pipeline
from drawings import state_of
from unmemorize import (
    AuditError,
    AuditSettings,
    ClosedFormEdit,
    Erased,
    GenerationSettings,
    HardeningResult,
    HardeningSettings,
    MitigationError,
    Model,
    Prompt,
    Run,
    RunError,
    bake,
    load_pipeline,
    verify,
    write_report,
)
from unmemorize._errors import DivergedError
from unmemorize.audit import STARTS, AuditInputs, Bench, edit_text
from unmemorize.hardening import (
    HardeningInputs,
    _examples,
    _forecast,
    _harden,
    forecast_hardening,
    harden_all,
    open_hardening,
)
from unmemorize.hardening._settings import Objective
from unmemorize.mitigation import derived_seed
from unmemorize.runs import kinds_in

EDIT = ClosedFormEdit((Erased("red cat"),))
SETTINGS = HardeningSettings(
    weights="mid_block.attentions.*",
    rounds=2,
    steps=1,
    rate=1e-3,
    starts=("prompt", "noise"),
    ordinary_images=2,
    audit=AuditSettings(
        levels=("L4",),
        steps=(0, 2),
        starts=("other",),
        seeds=1,
        images=1,
        batch=2,
        arms=("edited", "never-trained"),
        generation=GenerationSettings(steps=2, guidance=3.0, batch=2),
    ),
)
Made = tuple[HardeningResult, Run, Model]
CLIP: Any = object()


@pytest.fixture(autouse=True, scope="module")
def few_substitutes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_examples, "SUBSTITUTES", 2)
        patch.setattr(_forecast, "SUBSTITUTES", 2)
        yield


@pytest.fixture(name="files", scope="module")
def files_fixture(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("images")
    files = [folder / f"{number}.png" for number in range(3)]
    for number, path in enumerate(files):
        noise(number, (16, 16)).save(path)
    return files


def inputs_of(files: list[Path], **change: Any) -> HardeningInputs:
    audit = AuditInputs(
        edit=EDIT,
        captions=("a dog", "a house", "a tree by the sea"),
        descriptor=Pixels(),
        controls=(files[2],),
    )
    return HardeningInputs(audit=replace(audit, **change), keep=("a hill", "a sea"))


def prompts_of(files: list[Path]) -> list[Prompt]:
    return [
        Prompt("red cat", "VM", images=(files[0],), paraphrases=("cat in red",)),
        Prompt("blue cat", "VM", images=(files[1],)),
    ]


@pytest.fixture(name="make_run", scope="module")
def make_run_fixture(files: list[Path]) -> Callable[..., tuple[Run, HardeningInputs]]:
    def open_it(
        folder: Path, model: Model, settings: HardeningSettings = SETTINGS, **change: Any
    ) -> tuple[Run, HardeningInputs]:
        inputs = inputs_of(files, **change)
        return open_hardening(folder, model, prompts_of(files), inputs, settings), inputs

    return open_it


@pytest.fixture(name="finished", scope="module")
def finished_fixture(make_run: Any, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("hardening")
    make("Stable Diffusion").save_pretrained(folder / "model")
    model = Model.load(str(folder / "model"), device="cpu")
    pipe = model.pipe
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        module.requires_grad_(False)
    before = state_of(pipe)
    run, inputs = make_run(folder / "run", model)
    result = harden_all(run, model, inputs)
    assert state_of(pipe) == before
    return result, run, model


def test_rounds_attack_and_train_and_other_attacks_judge(finished: Made) -> None:
    result, run, model = finished
    attacks = [(attack.round, attack.target, attack.start) for attack in result.attacks]
    assert attacks == [(1, 0, "prompt"), (1, 1, "prompt"), (2, 0, "noise"), (2, 1, "noise")]
    assert all(len(attack.scores) == 2 for attack in result.attacks)
    # nothing is trained yet when the first step is taken: half of the first round has no distance
    assert len(result.rounds) == 2
    assert 0 < result.rounds[0].ordinary < result.rounds[1].ordinary
    verdict = result.verdict
    assert (verdict.attack, verdict.budget, verdict.images, verdict.controls) == ("L4", 2, 2, 1)
    assert verdict.medians.keys() == {"edited", "never-trained"}
    assert result.held == 2 - verdict.triggered
    assert f"{verdict.triggered} of 2 images" in result.headline
    assert result.hold_out == (
        "Training saw the captions (L0) and L4 from prompt, noise; it did not see L4 from other."
    )
    assert result.notes[0] == result.hold_out
    assert "from 1 images that are said to be never trained on" in result.notes[1]
    assert "under the same attacks in the trained model" in result.notes[1]
    assert "above it in at most 0.5 of cases" in result.notes[1]  # one control allows no less
    assert "one declared attempt" in result.notes[2]
    assert len(result.notes) == 3
    assert result.ordinary.images == 2
    drawn = {kind for kind in kinds_in(run.folder) if kind.startswith("ordinary")}
    assert drawn == {"ordinary-before", "ordinary-after"}  # others only for a CLIP
    assert HardeningResult.load(run) == result
    assert HardeningResult.load(run).file == result.file
    # the judged edit is the one that is kept
    judged = Run.load(run.folder / "audit")
    assert result.file is not None
    assert judged.manifest.settings["edit"] == edit_text(result.file.edit)
    assert judged.manifest.inputs.fingerprint == model.fingerprint


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_caller_may_have_switched_gradients_off(
    mode: Any, finished: Made, make_run: Any, tmp_path: Path
) -> None:
    result, _, model = finished
    settings = replace(SETTINGS, rounds=1)
    run, inputs = make_run(tmp_path / "run", model, settings)
    with mode():
        off = harden_all(run, model, inputs)
    assert [attack.scores for attack in off.attacks] == [
        attack.scores for attack in result.attacks if attack.round == 1
    ]
    assert off.rounds[0].forgotten == result.rounds[0].forgotten


def test_its_audit_has_the_page(finished: Made) -> None:
    _, run, _ = finished
    with pytest.raises(RunError, match=f"no page of its own.*unmemorize report {run.folder}/audit"):
        write_report(run)
    assert write_report(run.folder / "audit").is_file()


def test_only_the_named_weights_change(finished: Made) -> None:
    result, _, model = finished
    assert result.file is not None
    differences = result.file.edit.differences  # type: ignore[attr-defined]
    named = {
        name
        for name, _ in model.denoiser.named_parameters()
        if name.startswith("mid_block.attentions.")
    }
    assert differences.keys() == named
    assert all(bool(difference.any()) for difference in differences.values())


def test_the_weights_that_are_trained_are_those_of_the_edit(finished: Made) -> None:
    result, run, model = finished
    (path,) = (run.folder / "weights").iterdir()
    kept = load_file(path)
    before = model.denoiser.state_dict()
    assert result.file is not None
    for name, difference in result.file.edit.differences.items():  # type: ignore[attr-defined]
        assert torch.equal((kept[name].double() - before[name].double()).float(), difference)
        assert {f"{name}.exp_avg", f"{name}.exp_avg_sq"} < kept.keys()


def test_a_run_that_is_stopped_anywhere_ends_in_the_same_bits(
    finished: Made, make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each record is lost once, when its files are written already, as by a kill."""
    result, run, model = finished
    append = Run.append
    lost: set[tuple[str, int]] = set()

    def dying(self: Run, name: str, index: int, record: Any) -> None:
        if (name, index) not in lost:
            lost.add((name, index))
            raise KeyboardInterrupt
        append(self, name, index, record)

    monkeypatch.setattr(Run, "append", dying)
    before = state_of(model.pipe)
    for _ in range(6):
        again, inputs = make_run(tmp_path / "run", model)
        with pytest.raises(KeyboardInterrupt):
            harden_all(again, model, inputs)
        assert state_of(model.pipe) == before
    torch.manual_seed(99)  # nothing may come from the global generator
    resumed = harden_all(again, model, inputs)
    assert len(lost) == 6
    assert resumed.file == result.file
    scores = [(attack.round, attack.target, attack.scores) for attack in result.attacks]
    assert scores == [(each.round, each.target, each.scores) for each in resumed.attacks]
    assert resumed.verdict == result.verdict
    assert resumed.ordinary == result.ordinary
    for path in (run.folder / "attacks").iterdir():
        assert path.read_bytes() == (tmp_path / "run" / "attacks" / path.name).read_bytes()


def test_the_model_may_be_wrapped_again_to_resume(
    finished: Made, make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its fingerprint must not be found out while other weights are in place."""
    result, _, model = finished
    again, inputs = make_run(tmp_path / "again", model)
    append = Run.append

    def dying(self: Run, name: str, index: int, record: Any) -> None:
        append(self, name, index, record)
        if (name, index) == ("rounds", 0):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Run, "append", dying)
        with pytest.raises(KeyboardInterrupt):
            harden_all(again, model, inputs)
    resumed = harden_all(again, Model(model.pipe), inputs)
    assert resumed.file is not None
    assert resumed.edit == result.edit
    assert resumed.file.fingerprint == model.fingerprint
    other = make("Stable Diffusion")
    torch.nn.init.zeros_(other.unet.conv_out.weight)
    with pytest.raises(RunError, match="which is not the model given"):
        harden_all(again, other, inputs)


def test_one_process_trains_and_others_wait(
    finished: Made, make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, _, model = finished
    run, inputs = make_run(tmp_path / "run", model)

    def watched(*given: Any) -> Any:
        with pytest.raises(Timeout):
            FileLock(run.folder / ".edit.json.lock").acquire(blocking=False)
        raise KeyboardInterrupt

    monkeypatch.setattr(_harden, "_trained", watched)
    with pytest.raises(KeyboardInterrupt):
        harden_all(run, model, inputs)
    FileLock(run.folder / ".edit.json.lock").acquire(blocking=False).lock.release()


def test_the_trained_model_is_judged_by_controls_in_it(
    make_run: Any, files: list[Path], tmp_path: Path, finished: Made, monkeypatch: Any
) -> None:
    """Controls are attacked under the trained edit, with seeds of its own in both arms."""
    result, run, model = finished
    shutil.copytree(run.folder, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "audit")
    names: dict[str, set[str]] = {}
    edits = set()

    def noted(purpose: str, name: str, key: str, *others: Any) -> int:
        names.setdefault(purpose, set()).add(name)
        names.setdefault(f"{purpose} of", set()).add(key)
        return derived_seed(purpose, name, key, *others)

    class NotedBench(Bench):
        def predict(self, *args: Any, **options: Any) -> torch.Tensor:
            edits.add(edit_text(self.edit))
            return super().predict(*args, **options)

    monkeypatch.setattr("unmemorize.audit._task.derived_seed", noted)
    monkeypatch.setattr("unmemorize.audit._attack.derived_seed", noted)
    monkeypatch.setattr("unmemorize.audit._task.Bench", NotedBench)
    again, inputs = make_run(tmp_path / "run", model)
    judged = harden_all(again, model, inputs)
    assert judged.verdict == result.verdict
    assert not judged.verdict.paired
    assert result.file is not None
    assert edits == {edit_text(result.file.edit)}
    assert len(names["audit image of"] | names["attack of"]) == 3  # two images and the control
    assert names["audit image"] == names["attack"]
    (name,) = names["attack"]
    assert model.fingerprint in name
    assert result.edit in name
    audit = Run.load(again.folder / "audit")
    assert audit.manifest.settings["seeded_by"] == result.edit


def test_the_upper_bound_is_rounded_up(finished: Made) -> None:
    result, _, _ = finished
    verdict = replace(result.verdict, images=6, triggered=0, bound=1 - 0.05 ** (1 / 6))
    assert "(upper bound of the rate 39.4 %)" in replace(result, verdict=verdict).headline


def test_what_is_not_judged_is_told(finished: Made) -> None:
    result = finished[0]
    some = replace(result, verdict=replace(result.verdict, images=1, unjudged=1))
    assert any(note.startswith("Not judged: 1 of 2 images") for note in some.notes)
    verdict = replace(result.verdict, tau=None, images=0, unjudged=2)
    assert replace(result, control="", verdict=verdict).notes == (result.hold_out,)


def test_prompts_of_one_image_and_templates_are_judged(
    finished: Made, files: list[Path], tmp_path: Path
) -> None:
    _, _, model = finished
    first, second = prompts_of(files)
    noise(9, (16, 16)).save(tmp_path / "other.png")
    template = Prompt("a map", "TM", images=(files[1], tmp_path / "other.png"))
    prompts = [first, replace(second, images=first.images), template]
    inputs = inputs_of(files)
    run = open_hardening(tmp_path / "run", model, prompts, inputs, replace(SETTINGS, rounds=1))
    result = harden_all(run, model, inputs)
    assert (result.verdict.images, result.verdict.unjudged) == (2, 0)
    assert not any(note.startswith("Not judged") for note in result.notes)
    assert "Prompts 0, 1 show the same image" in result.notes[2]
    assert "Templates that are compared as whole images" in result.notes[3]
    assert HardeningResult.load(run).notes == result.notes


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "saw the captions (L0) and L4 from prompt; it did not see L4 from noise, other."),
        ({"starts": STARTS, "rounds": 2}, "L4 from prompt, noise; it did not see L4 from other."),
        ({"starts": STARTS}, "L4 from prompt, noise, other; judging attacks differ from these by"),
        ({"attacked": 0.0}, "the captions (L0); it did not see L4 from prompt, noise, other."),
    ],
)
def test_what_is_held_out_is_told(settings: dict[str, Any], words: str) -> None:
    assert words in HardeningSettings(**settings).hold_out


def test_a_run_of_before_the_share_of_attacks_is_refused(
    finished: Made, make_run: Any, tmp_path: Path
) -> None:
    """Its training saw paraphrases, and its judging seeds were those of every edit."""
    run, model = finished[1:]
    shutil.copytree(run.folder, tmp_path / "run")
    path = tmp_path / "run" / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["settings"]["settings"]["attacked"]
    manifest["settings"]["twins"] = []
    path.write_text(json.dumps(manifest))
    with pytest.raises(RunError, match=r"settings\.attacked = null, now it is 0\.75"):
        make_run(tmp_path / "run", model)
    assert HardeningResult.load(Run.load(tmp_path / "run")).edit == finished[0].edit


def test_other_settings_are_another_run(finished: Made, make_run: Any) -> None:
    _, run, model = finished
    with pytest.raises(RunError, match=r"settings\.rounds = 2, now it is 3"):
        make_run(run.folder, model, replace(SETTINGS, rounds=3))


def test_other_training_images_of_the_same_names_are_another_run(
    finished: Made, files: list[Path], tmp_path: Path
) -> None:
    _, run, model = finished
    others = [tmp_path / path.name for path in files[:2]]
    for number, path in enumerate(others):
        noise(90 + number, (32, 32)).save(path)
    with pytest.raises(RunError, match=r"references = .*another folder"):
        open_hardening(run.folder, model, prompts_of(others), inputs_of(files), SETTINGS)


def test_a_checkpoint_is_the_model_that_was_judged(tmp_path: Path, finished: Made) -> None:
    result, _, model = finished
    assert result.file is not None
    bake(model, result.file, tmp_path / "edited")
    loaded: Any = load_pipeline(str(tmp_path / "edited"), device="cpu")
    weights = loaded.unet.state_dict()
    before = model.denoiser.state_dict()
    for name, difference in result.file.edit.differences.items():  # type: ignore[attr-defined]
        assert torch.allclose(weights[name], before[name] + difference, atol=1e-7)
    assert verify(tmp_path / "edited", model).passed


def test_what_takes_the_place_of_an_image_must_not_copy_it(
    make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("unmemorize.hardening._examples.COPY", -1.1)
    pipe = make_pipeline()
    model = Model(pipe)
    before = state_of(pipe)
    run, inputs = make_run(tmp_path / "run", model, replace(SETTINGS, objective="substitutes"))
    with pytest.raises(MitigationError, match="'red cat': all 2 images under the edit still copy"):
        harden_all(run, model, inputs)
    assert state_of(pipe) == before


@pytest.mark.parametrize("objective", ["substitutes", "both"])
def test_substitutes_need_an_edit(
    make_run: Any, tmp_path: Path, finished: Made, objective: Objective
) -> None:
    settings = replace(SETTINGS, objective=objective)
    run, inputs = make_run(tmp_path / "run", finished[2], settings, edit=None)
    with pytest.raises(MitigationError, match=f"the objective {objective} needs an edit that"):
        harden_all(run, finished[2], inputs)


def test_captions_to_preserve_are_needed(files: list[Path]) -> None:
    with pytest.raises(MitigationError, match="without ordinary captions to preserve"):
        replace(inputs_of(files), keep=())


def test_too_few_captions_are_refused_before_the_work(make_run: Any, tmp_path: Path) -> None:
    """Judging attacks need two ordinary captions, which was found out after the training."""
    model = Model(make("Stable Diffusion"))
    with pytest.raises(AuditError, match="1 different ordinary caption:"):
        make_run(tmp_path / "run", model, captions=("a dog",))
    assert not (tmp_path / "run").exists()


def test_memorized_prompts_are_not_preserved(
    files: list[Path], finished: Made, tmp_path: Path
) -> None:
    prompts, model = prompts_of(files), finished[2]
    inputs = replace(inputs_of(files), keep=("red cat", "a hill", "blue cat", "a sea"))
    assert inputs.preserved(prompts) == ("a hill", "a sea")
    other = [replace(prompts[0], paraphrases=("a sea",)), *prompts[1:]]
    assert inputs.preserved(other) == ("a hill",)
    run = open_hardening(tmp_path / "run", model, prompts, inputs, SETTINGS)
    result = harden_all(run, model, inputs)
    assert result.edit == finished[0].edit  # which preserved these two
    none = replace(inputs, keep=("red cat",))
    with pytest.raises(MitigationError, match="'red cat': all captions to preserve are memorized"):
        open_hardening(tmp_path / "none", model, prompts, none, SETTINGS)


def test_memorized_prompts_are_no_side_effect(files: list[Path], finished: Made) -> None:
    _, run, model = finished
    folder = run.folder.with_name("overlapping")
    shutil.copytree(run.folder, folder)
    for path in folder.glob("ordinary-*.jsonl"):
        path.write_text(path.read_text().replace('"a house"', '"red cat"'))
    result = harden_all(Run.load(folder), model, inputs_of(files))
    assert result.ordinary.images == 1
    assert finished[0].ordinary.images == 2


def test_distillation_needs_no_edit(make_run: Any, tmp_path: Path, finished: Made) -> None:
    result, _, model = finished
    run, inputs = make_run(tmp_path / "run", model, edit=None)
    assert harden_all(run, model, inputs).edit == result.edit


def test_a_run_that_distilled_otherwise_is_not_resumed(
    make_run: Any, tmp_path: Path, finished: Made
) -> None:
    run, _ = make_run(tmp_path / "run", finished[2])
    manifest = json.loads((run.folder / "manifest.json").read_text())
    assert manifest["settings"].pop("taught") == "shifted images"
    (run.folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(RunError, match="taught"):
        make_run(run.folder, finished[2])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 0}, "rank=0: at least 1"),
        ({"rounds": 0}, "rounds=0: at least 1"),
        ({"steps": 0}, "steps=0: at least 1"),
        ({"ordinary_images": 1}, "ordinary_images=1: at least 2"),
        ({"rate": 0.0}, r"rate=0\.0: a learning rate"),
        ({"kept_weight": -1.0}, r"kept_weight=-1\.0: a weight"),
        ({"attacked": 1.1}, r"attacked=1\.1: a share lies between 0 and 1"),
        ({"starts": ("nowhere",)}, "Choose prompt or noise or other"),
        ({"audit": AuditSettings(levels=("L0",))}, "levels L0 .* Name L4"),
        ({"audit": AuditSettings(levels=("L4",), steps=(0,))}, "with at least 1 step"),
    ],
)
def test_settings_are_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(MitigationError, match=message):
        HardeningSettings(**change)


def test_no_substitute_is_drawn_where_everything_is_distilled(finished: Made) -> None:
    examples = load_file(finished[1].folder / "examples.safetensors")
    assert examples.keys() == {"ordinary"}


def test_the_bundled_model_and_loras_have_their_own_rate(
    bundled: StableDiffusionPipeline, finished: Made
) -> None:
    model = Model(bundled)
    assert HardeningSettings.of(model).rate == 2e-4
    assert HardeningSettings.of(model, rank=4).rate == pytest.approx(2e-3)
    assert HardeningSettings.of(model, rank=4, rate=0.5).rate == 0.5
    assert HardeningSettings.of(finished[2]).rate == 1e-5


@pytest.mark.parametrize(
    ("objective", "drawn", "taught"),
    [("substitutes", 2 * 2 * 4, 8), ("both", 2 * 2 * 4, 16), ("distillation", 0, 16)],
)
def test_the_forecast_counts_samples(
    objective: Objective, drawn: int, taught: int, files: list[Path], finished: Made
) -> None:
    settings = replace(SETTINGS, objective=objective)
    cost = forecast_hardening(finished[2], settings, inputs_of(files), prompts_of(files))
    assert cost.samples == {
        "examples": drawn + 2 * 2,
        "attacks of the training": 2 * 2 * (2 * 2 * 3 + 2 * 4),
        "training": 2 * 2 * (16 * 3 + taught),
        "ordinary images": 2 * 2 * 4,
        "judging attacks": 2 * (2 * 2 * 3 + 2 * 4) + 1 * (2 * 2 * 3 + 2 * 4),
    }
    assert cost.attacked == 3
    with_clip = replace(inputs_of(files), clip=CLIP)
    cost = forecast_hardening(finished[2], settings, with_clip, prompts_of(files))
    assert cost.samples["ordinary images"] == 3 * 2 * 4


@pytest.mark.parametrize("rate", [1e3, 1e30])
def test_a_training_that_diverges_says_so(
    finished: Made, make_run: Any, tmp_path: Path, rate: float
) -> None:
    """It named a damaged checkpoint, or numbers in a record, and nothing of the learning rate."""
    model = finished[2]
    before = state_of(model.pipe)
    run, inputs = make_run(tmp_path / "run", model, replace(SETTINGS, rate=rate, rounds=2, steps=2))
    for _ in range(2):  # the same call does not go on with what is lost
        with pytest.raises(DivergedError, match=r"in round [12]: its numbers.*lower learning rate"):
            harden_all(run, model, inputs)
        assert state_of(model.pipe) == before
