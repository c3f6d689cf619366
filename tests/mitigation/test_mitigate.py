"""The whole way on a tiny random pipeline, whose own images serve as training images."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from architectures import make
from colours import Pixels, noise
from conftest import make_pipeline
from records import SMALL_MITIGATION
from unmemorize import (
    Calibration,
    Erased,
    GenerationSettings,
    LocalizationSettings,
    MitigationError,
    Model,
    NeuronEdit,
    Neurons,
    Prompt,
    Run,
    RunError,
    StatisticsError,
    Threshold,
    ThresholdError,
    UnfinishedError,
    calibrate_threshold,
    compute_statistics,
    open_run,
    read_localizations,
    testbed,
    verify_evidence,
    write_evidence,
    write_report,
)
from unmemorize.engines import Execution, Progress, Shard
from unmemorize.generation import EditFile, WeightEdit, generate_each
from unmemorize.methods import LATENTS, _text_encoder, fine_tuned_denoiser, trained_text_encoder
from unmemorize.mitigation import (
    MitigationInputs,
    MitigationResult,
    MitigationRun,
    MitigationSettings,
    OrdinaryCaptions,
    Stages,
    _guides,
    _images,
    _mitigate,
    _ordinary,
    _public,
    _trained,
    mitigate_all,
    read_confirmations,
    unannounced,
)
from unmemorize.mitigation._confirmation import screen_level, search_seeds
from unmemorize.mitigation._guides import DRAWN, SCORED
from unmemorize.mitigation._ladders import FINE_TUNING, Findings, Rung
from unmemorize.mitigation._starts import starts_of
from unmemorize.runs import _drive, kinds_in, run_prompts

CAPTIONS = OrdinaryCaptions(("a dog", "a house", "a tree"), ("a car", "a boat"))
SETTINGS = replace(
    SMALL_MITIGATION,
    localization=LocalizationSettings(criterion="unblocked"),
    generation=GenerationSettings(steps=2, guidance=3.0, batch=4),
)


@dataclass(frozen=True)
class Start:
    """Starts mitigations of three suspects. Two name their own images as training images."""

    folder: Path
    model: Model
    inputs: MitigationInputs
    prompts: tuple[Prompt, ...]

    def __call__(
        self,
        settings: MitigationSettings = SETTINGS,
        execution: Execution | None = None,
        folder: str = "run",
        detection_tau: float = 0.01,
        attempts: int = 4,
    ) -> tuple[Any, Run]:
        detect = replace(self.inputs.threshold.detect, tau=detection_tau)
        inputs = replace(self.inputs, threshold=replace(self.inputs.threshold, detect=detect))
        made_of = MitigationRun.of(settings, inputs)
        run = open_run(self.folder / folder, self.model, self.prompts, made_of)
        result = mitigate_all(run, self.model, inputs, attempts=attempts, execution=execution)
        return result, run


@pytest.fixture(name="start", scope="module")
def start_fixture(tmp_path_factory: pytest.TempPathFactory) -> Start:
    folder = tmp_path_factory.mktemp("mitigated")
    model = Model(make_pipeline())
    statistics = compute_statistics(model, [f"word {number}" for number in range(12)])
    threshold = calibrate_threshold(
        model, ["one", "two", "three"], detector="seed-similarity", calibration=Calibration()
    )
    low = replace(
        threshold,
        detect=replace(threshold.detect, cascade=None),
        localize=replace(threshold.localize, tau=0.01),
    )
    inputs = MitigationInputs(
        statistics=statistics, threshold=low, captions=CAPTIONS, descriptor=Pixels()
    )
    stranger = folder / "stranger.png"
    noise(5, (16, 16)).save(stranger)
    texts = ["a red cat", "a blue cat", "a green cat"]
    prompts = [Prompt(text, "VM", images=(stranger,)) for text in texts]
    for index, prompt in enumerate(prompts[:2]):
        files = []
        made_of = MitigationRun.of(SETTINGS, inputs)
        probe = open_run(folder / "probe", model, [prompt], made_of, new=True)
        seeds = search_seeds(
            Stages(probe, model, SETTINGS, Pixels(), None, Execution(), unannounced), prompt.text
        )
        made = generate_each(
            model,
            [prompt.text] * 3,
            [None] * 3,
            settings=replace(SETTINGS.generation, images=1),
            seeds=seeds,
        )
        for number, (image,) in enumerate(made):
            files.append(folder / f"{index}-{number}.png")
            image.save(files[-1])
        prompts[index] = replace(prompt, images=tuple(files), paraphrases=("a cat in red",))
    return Start(folder, model, inputs, tuple(prompts))


@pytest.fixture(name="finished", scope="module")
def finished_fixture(start: Start) -> tuple[Any, Run]:
    """A finished mitigation, which nobody changes."""
    return start()


def test_memorized_prompts_are_neither_kept_nor_a_side_effect(start: Start) -> None:
    """Two suspects that copy are ordinary captions, too, and so is a paraphrase of them."""
    captions = OrdinaryCaptions(
        ("a dog", "a red cat", "a house"),
        ("a car", "a cat in red", "a green cat"),
        ("a blue cat", "a boat"),
    )
    inputs = replace(start.inputs, captions=captions)
    made_of = MitigationRun.of(SETTINGS, inputs)
    run = open_run(start.folder / "overlapping", start.model, start.prompts, made_of)
    stages = Stages(run, start.model, SETTINGS, Pixels(), None, Execution(), unannounced)
    work, findings = _mitigate.prepare(stages, inputs)
    assert {found.text for found in findings.values()} == {"a red cat", "a blue cat"}
    assert work.captions.keep == ("a car", "a green cat")
    assert work.captions.all_kept == ("a car", "a green cat", "a boat")
    edit = NeuronEdit(Neurons({path: range(4) for path in start.model.widths}), -2.0)
    change = work.change(edit, 5, "side effects")
    assert change.images == 3
    assert {caption for caption, *_ in change.shown} == {"a dog", "a house"}


@pytest.mark.parametrize(
    ("clip", "known", "kinds"),
    [
        (None, True, ["ordinary-before"]),
        (object(), True, ["ordinary-before", "ordinary-other"]),
        (None, False, ["ordinary-before", "ordinary-other"]),
    ],
)
def test_other_noise_is_drawn_for_a_clip_or_for_suspects_without_training_images(
    start: Start, monkeypatch: pytest.MonkeyPatch, clip: Any, known: bool, kinds: list[str]
) -> None:
    """Without a CLIP, 1,000 images were drawn that nothing was compared with."""
    drawn: list[str] = []
    monkeypatch.setattr(Stages, "ordinary", lambda _, __, kind, *___, **____: drawn.append(kind))
    monkeypatch.setattr(_mitigate, "confirm", lambda *_: {})
    settings = replace(SETTINGS, distances=True)
    prompts = start.prompts if known else [Prompt(start.prompts[0].text)]
    made_of = MitigationRun.of(settings, start.inputs)
    run = open_run(start.folder / "other-noise", start.model, prompts, made_of, new=True)
    stages = Stages(run, start.model, settings, Pixels(), clip, Execution(), unannounced)
    _mitigate.prepare(stages, start.inputs)
    assert drawn == kinds


def test_starts_of_confirmed_prompts_are_looked_at(finished: tuple[Any, Run]) -> None:
    """Each score is that of the start itself. The screen clears no guide here, so none is drawn."""
    _, run = finished
    scored = run.records("starts").values()
    starts = [record["prompt"] for record in scored]
    assert starts == ["a", "a red", "a", "a blue"]
    level = run.settings(MitigationRun).tau
    scores = [each["score"] for kind in SCORED.values() for each in run.records(kind).values()]
    assert min(scores) > level
    assert not [kind for kind in kinds_in(run.folder) if kind.startswith(DRAWN)]


def test_suspects_of_the_same_text_are_refused_in_a_run(start: Start) -> None:
    """Their images are the same, since seeds follow from the text."""
    twice = replace(start, prompts=(start.prompts[0], start.prompts[1], start.prompts[0]))
    with pytest.raises(MitigationError, match="'a red cat': several suspects of this run"):
        twice(folder="twice")


def test_suspects_of_the_same_text_count_once(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_public, "mitigate_all", lambda run, *_, **__: run)
    texts: list[str | Prompt] = [
        "a red cat",
        Prompt("a red cat", images=(tmp_path / "1.png",)),
        "a blue cat",
    ]
    run: Any = _public.mitigate(
        start.model,
        texts,
        statistics=start.inputs.statistics,
        threshold=start.inputs.threshold,
        captions=CAPTIONS,
        descriptor=Pixels(),
        settings=SETTINGS,
        folder=tmp_path / "run",
    )
    red, blue = run_prompts(run)
    assert (red.text, [image.name for image in red.images]) == ("a red cat", ["1.png"])
    assert blue.text == "a blue cat"


def test_few_ordinary_captions_are_warned_of_before_any_image(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Stages, "ordinary", None)
    with pytest.raises(TypeError):
        start(folder="warned")
    assert "rests on images of 3 ordinary captions" in caplog.text


def test_suspects_get_verdicts_and_one_edit(finished: tuple[Any, Run]) -> None:
    result, run = finished
    statuses = [outcome.status for outcome in result.outcomes]
    assert statuses[2] == "not confirmed"
    assert set(statuses[:2]) <= {"removed", "reduced", "not removed"}
    first = result.outcomes[0]
    assert (first.measure, first.before.copies, first.before.seeds) == ("image", 3, 3)
    assert first.worst_before == pytest.approx(1, abs=1e-4)
    assert first.after.seeds in range(1, 6)
    assert first.paraphrases_before.seeds == 3
    parts = getattr(result.file.edit, "parts", (result.file.edit,))
    scaled = [each for each in result.outcomes if "neurons at" in each.rung]
    if any(isinstance(part, NeuronEdit) for part in parts):
        assert scaled
        assert result.ordinary_control.images == SETTINGS.sample
    else:
        assert (scaled, result.ordinary_control) == ([], None)
    assert result.controls.seeds == 3 * len(scaled)
    for outcome in result.outcomes:
        assert len(outcome.scores_control) == (3 if outcome in scaled else 0)
        assert all((run.folder / name).exists() for name in outcome.files_control)
    for outcome in result.outcomes[:2]:
        (paraphrase,) = outcome.paraphrases
        assert paraphrase.text == "a cat in red"
        assert (paraphrase.before, paraphrase.after) == (
            outcome.paraphrases_before,
            outcome.paraphrases_after,
        )
        assert len(paraphrase.files_left) == paraphrase.after.copies
        assert all((run.folder / name).exists() for name in paraphrase.files_left)
    for outcome in result.outcomes[:2]:
        assert len(outcome.files_left) == outcome.after.copies
        assert all((run.folder / name).exists() for name in outcome.files_left)
        assert all(score > outcome.level for score in outcome.scores_left)
        assert list(outcome.scores_left) == sorted(outcome.scores_left, reverse=True)
    kept = {path.parent.name.split("-")[0] for path in run.folder.glob("*/*.png")}
    judged = kept - {"differences", "ordinary"}
    others = {"search", "after", "certificate", "count", "control", "paraphrases"}
    assert judged <= {"before", *others}
    recorded = read_confirmations(run)
    assert sorted(recorded) == [0, 1, 2]
    for index, record in recorded.items():
        outcome = result.outcomes[index]
        assert (record.prompt, record.measure) == (outcome.prompt, outcome.measure)
        assert sum(score > outcome.level for score in record.scores) == outcome.before.copies
        assert max(record.scores) == outcome.worst_before
        assert record.ordinary_copies == ()  # the highest of 19 scores is the level
    assert result.outcomes[2].rung == ""
    assert result.outcomes[2].after is None
    assert EditFile.load(run.folder / "edit.json").edit == result.file.edit
    erased = [erased.caption for part in parts for erased in getattr(part, "erase", ())]
    assert "a green cat" not in erased
    assert result.ordinary.images == 19
    assert len(result.candidates) == 4
    assert MitigationResult.load(run) == result
    found = EditFile.load(run.folder / "edit.json").found
    assert (found["suspects"], found["memorized"]) == (3, 2)
    assert found["copies before"] == "6 of 6 images"
    after = [outcome.paraphrases_after.copies for outcome in result.outcomes[:2]]
    assert found["copies after, other wordings"] == (
        f"{sum(after)} of 6 images, under {sum(map(bool, after))} of 2 wordings"
    )
    assert found["ordinary prompts, changed"] == f"{result.ordinary.changed} of 19 images"


def test_the_files_of_the_model_are_recorded(
    start: Start, finished: tuple[Any, Run], tmp_path: Path
) -> None:
    """The call of Python records them, too, not only the command. A model in memory has none."""
    result, run = finished
    assert not (run.folder / "model-files.json").exists()
    shutil.copytree(run.folder, tmp_path / "run")
    start.model.pipe.save_pretrained(tmp_path / "model")
    loaded = type(start.model.pipe).from_pretrained(tmp_path / "model", local_files_only=True)
    loaded.set_progress_bar_config(disable=True)
    assert replace(start, folder=tmp_path, model=Model(loaded))()[0] == result
    recorded = json.loads((tmp_path / "run" / "model-files.json").read_text())
    name = "unet/diffusion_pytorch_model.safetensors"
    content = (tmp_path / "model" / name).read_bytes()
    assert recorded[name] == hashlib.sha256(content).hexdigest()


def test_a_run_that_is_killed_between_edit_and_verdicts_has_none(
    start: Start, finished: tuple[Any, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verdicts of before would be read with an edit of now."""
    result, run = finished
    folder = shutil.copytree(run.folder, start.folder / "killed")
    save = EditFile.save

    def killed(file: EditFile, path: Path) -> None:
        save(file, path)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(EditFile, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            start(folder="killed")
    with pytest.raises(RunError, match=r"mitigation\.json"):
        MitigationResult.load(Run.load(folder))
    assert start(folder="killed")[0] == result


def test_memorized_prompts_for_which_no_edit_is_found_are_memorized(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on models without closed forms, where localization finds no neuron."""
    monkeypatch.setattr(Findings, "ladder", lambda *_: (Rung(),))
    result, run = start(folder="nothing")
    assert [outcome.status for outcome in result.outcomes] == [
        "not removed",
        "not removed",
        "not confirmed",
    ]
    assert (result.confirmed, result.edit, result.file) == (2, "", None)
    assert result.headline == "No edit was found that could end the copies of 2 memorized prompts."
    assert MitigationResult.load(run) == result
    page = write_report(run).read_text()
    assert result.headline in page
    pack = start.folder / "nothing.zip"
    write_evidence(run, pack)
    assert verify_evidence(pack).numbers


def test_confirmed_prompts_are_localized_whatever_the_detector_says(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their scores lie above the level of the screen and below that of detection."""
    monkeypatch.setattr(_mitigate, "_best", lambda *_: (None, ()))  # the search comes after it
    _, run = start(folder="high", detection_tau=0.9999)
    records = read_localizations(run)
    assert sorted(records) == [0, 1]
    for record in records.values():
        assert record.detection is not None
        assert record.detection.score < 0.9999
        assert record.memorized
        assert record.seeds


def test_suspects_are_screened_below_the_level_of_detection() -> None:
    scores = tuple(float(score) for score in range(1, 41))
    given = Threshold.load(testbed.threshold_path("seed similarity"))

    def level(**changes: Any) -> float:
        return screen_level(replace(given, detect=replace(given.detect, cascade=None, **changes)))

    assert level(tau=0.9) == given.localize.tau
    assert level(tau=0.1) == 0.1
    others = {"detector": "late-noise-magnitude", "tau": 40.0}
    assert level(**others, scores=scores) == 39.0  # of 40: ceil(41 * .95)
    assert level(**others, scores=scores[:18]) == 40.0  # too few to tell
    assert level(**(others | {"tau": 3.0}), scores=scores) == 3.0


def test_the_same_call_generates_nothing_again(
    start: Start, finished: tuple[Any, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    result, _ = finished

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("an image is generated again")

    monkeypatch.setattr(_images, "generate_each", refuse)
    monkeypatch.setattr(_ordinary, "generate_each", refuse)
    assert start()[0] == result


def test_a_lost_record_is_made_again_alone(start: Start, finished: tuple[Any, Run]) -> None:
    result, run = finished
    copy = shutil.copytree(run.folder, start.folder / "copy")
    for name in ("before", "ordinary-before"):
        path = copy / f"{name}.jsonl"
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:-1]) + lines[-1][:40])  # as a killed process leaves it
    told: list[tuple[int, int | None]] = []
    execution = Execution(progress=lambda done, total: told.append((done, total)))
    assert start(folder="copy", execution=execution)[0] == result
    ends = [done for done, total in told if done == total]
    assert len(ends) > 1, "each stage reports until its end"


@pytest.mark.parametrize("change", ["other images", "tinted", "one is gone"])
def test_training_images_that_were_changed_are_noticed(
    start: Start, finished: tuple[Any, Run], change: str
) -> None:
    """All later stages rest on who is memorized, and on what is a copy."""
    folder = start.folder / change
    shutil.copytree(finished[1].folder, folder)
    listed = (folder / "prompts.jsonl").read_bytes()
    kept = {path: path.read_bytes() for path in start.prompts[0].images}
    try:
        for path in kept:
            if change == "other images":
                shutil.copy(start.prompts[2].images[0], path)
            elif change == "tinted":
                image = Image.open(path).convert("RGB")
                Image.blend(image, noise(7, image.size), 0.1).save(path)
        if change == "one is gone":
            path.unlink()
        what = "cannot be read" if change == "one is gone" else "has changed since"
        with pytest.raises(RunError, match=f"the training image .* of 'a red cat' {what}"):
            start(folder=change)
        assert (folder / "prompts.jsonl").read_bytes() == listed  # or evidence would name others
        with pytest.raises(RunError, match="'a red cat' are judged in another way"):
            mitigate_all(folder, start.model, start.inputs)
    finally:
        for path, content in kept.items():
            path.write_bytes(content)


def test_a_run_on_other_ladders_is_not_resumed(start: Start, finished: tuple[Any, Run]) -> None:
    """The same search would find another edit, and its artefacts would be mixed with the old."""
    folder = shutil.copytree(finished[1].folder, start.folder / "ladders")
    manifest = folder / "manifest.json"
    content = json.loads(manifest.read_text())
    content["settings"]["ladders"] = ""
    manifest.write_text(json.dumps(content))
    with pytest.raises(RunError, match="ladders"):
        start(folder="ladders")


def test_shards_share_the_work(
    start: Start, finished: tuple[Any, Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waits where another one has work left; together they come to the same result."""
    whole, _ = finished
    with pytest.raises(UnfinishedError, match=r"ordinary: \d+ of \d+ are left to other shards"):
        start(execution=Execution(shard=Shard(1, 2)), folder="shards")
    monkeypatch.setattr(_drive, "_POLL", 0.05)

    starts = [replace(start, model=Model(make_pipeline())) for _ in range(2)]

    def work(number: int) -> MitigationResult:
        execution = Execution(shard=Shard(number, 2), patience=60)
        result: MitigationResult
        result, _ = starts[number - 1](execution=execution, folder="shards")
        return result

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(work, (1, 2))) == [whole, whole]
    # the first one may already deliver what is written when another one comes to its end
    files = [start.folder / "shards" / name for name in ("mitigation.json", "edit.json")]
    for path in files:
        path.unlink()
    assert work(2) == whole
    assert not any(path.exists() for path in files)
    assert work(1) == whole
    assert all(path.exists() for path in files)


def test_more_attempts_follow_a_failed_certificate(start: Start) -> None:
    settings = replace(SETTINGS, declared=False)
    _, run = start(settings, folder="attempts", attempts=1)
    assert {path.name.split("-")[1] for path in run.folder.glob("certificate-*.jsonl")} == {"1"}
    result, run = start(settings, folder="attempts", attempts=2)  # goes on
    attempts = {path.name.split("-")[1] for path in run.folder.glob("certificate-*.jsonl")}
    confirmed = [outcome for outcome in result.outcomes if outcome.confirmed]
    assert attempts == {str(number) for number in range(1, len(attempts) + 1)}
    if any(outcome.after.copies > 1 for outcome in confirmed):
        assert len(attempts) > 1
    assert all(
        "whole search 95 %" in each.verdict for each in confirmed if each.status == "removed"
    )


def test_attempts_on_record_count(start: Start) -> None:
    """Else the verdicts would leave out certificates that are in the folder."""
    settings = replace(SETTINGS, declared=False)
    whole, _ = start(settings, folder="attempts", attempts=2)
    assert start(settings, folder="attempts", attempts=1)[0] == whole


def test_at_least_one_attempt_is_made(start: Start) -> None:
    with pytest.raises(MitigationError, match="attempts=0"):
        start(attempts=0)


def test_the_text_encoder_can_be_edited_in_place_of_the_denoiser(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is trained for each edit that is tried, with all captions that are kept, and once."""
    monkeypatch.setattr(_text_encoder, "STEPS", 3)
    trained: list[tuple[Sequence[Erased], Sequence[str]]] = []

    def noted(
        model: Model,
        erase: Sequence[Erased],
        keep: Sequence[str],
        progress: Progress,
        folder: Path,
    ) -> WeightEdit:
        trained.append((tuple(erase), tuple(keep)))
        edit = trained_text_encoder(model, erase, keep, progress, folder)
        assert list(folder.iterdir())
        return edit

    monkeypatch.setattr(_trained, "trained_text_encoder", noted)
    monkeypatch.setattr(_guides, "screen_level", lambda _: float("inf"))  # all guides are clear
    settings = replace(SETTINGS, part="text-encoder")
    more = replace(start.inputs, captions=replace(CAPTIONS, further=("a plane",)))
    start = replace(start, inputs=more)
    result, run = start(settings, folder="encoder")
    assert isinstance(result.file.edit, WeightEdit)
    assert all(name.startswith("text_encoder.") for name in result.file.edit.differences)
    assert {keep for _, keep in trained} == {("a car", "a boat", "a plane")}
    confirmed = [outcome for outcome in result.outcomes if outcome.confirmed]
    assert all("text encoder" in outcome.rung for outcome in confirmed)
    texts = [outcome.prompt for outcome in confirmed]
    first, _ = trained[0]
    assert {each.caption for each in first} == {outcome.prompt for outcome in confirmed}
    assert len({erase for erase, _ in trained}) == len(trained)
    assert len(list(run.folder.glob("text-encoder-*.json"))) == len(trained)
    assert not [path for path in run.folder.glob("text-encoder-*") if path.is_dir()]
    kept = {"a car", "a boat", "a plane"}  # by which the edit is not judged
    assert {record["prompt"] for record in run.records("neighbours").values()} == kept
    reworded = {record["prompt"] for record in run.records("rewordings").values()}
    starting = {each.caption: each.guide for each in first}
    drawn = [kind for kind in kinds_in(run.folder) if kind.startswith("guide-")]
    for outcome in confirmed:
        looked_at = [
            records[outcome.index]["prompt"]
            for records in map(run.records, drawn)
            if outcome.index in records
        ]
        assert starting[outcome.prompt] in looked_at
        assert set(looked_at) <= kept | reworded | set(starts_of(outcome.prompt))
    guides = {each.guide for erase, _ in trained for each in erase}
    assert guides & kept  # starts still copy, since the training is short
    assert guides <= {"", *kept, *reworded, *(start for text in texts for start in starts_of(text))}
    trained.clear()
    assert start(settings, folder="encoder")[0] == result
    assert not trained
    with pytest.raises(RunError, match="part"):
        start(SETTINGS, folder="encoder")


def test_another_model_is_refused_before_any_work(start: Start) -> None:
    """Its images would be taken for those of the model of the run."""
    made_of = MitigationRun.of(SETTINGS, start.inputs)
    run = open_run(start.folder / "another", start.model, start.prompts, made_of)
    other = make_pipeline()
    other.unet.conv_in.weight.data.mul_(1.1)
    with pytest.raises(RunError, match="which is not the model given"):
        mitigate_all(run, other, start.inputs)
    assert not list(run.folder.glob("ordinary-*"))


@pytest.mark.parametrize(
    ("part", "keep", "message"),
    [
        ("text-encoder", ("a car", "a red cat", "a green cat"), "text encoder needs at least 2"),
        ("denoiser", ("a red cat",), "denoiser needs at least 1"),
    ],
)
def test_captions_that_a_training_will_lack_are_refused_before_any_work(
    start: Start, part: Any, keep: tuple[str, ...], message: str
) -> None:
    """Suspects may turn out to be memorized, and are not kept then."""
    captions = OrdinaryCaptions(("a dog",), keep)
    start = replace(start, inputs=replace(start.inputs, captions=captions))
    with pytest.raises(MitigationError, match=message):
        start(replace(SETTINGS, part=part), folder=f"lacking {part}")
    assert not kinds_in(start.folder / f"lacking {part}")


def test_suspects_are_needed(start: Start) -> None:
    with pytest.raises(MitigationError, match="no suspects"):
        replace(start, prompts=())(folder="no suspects")
    assert not kinds_in(start.folder / "no suspects")


def test_ordinary_captions_are_needed(start: Start) -> None:
    start = replace(start, inputs=replace(start.inputs, captions=OrdinaryCaptions((), ("a car",))))
    with pytest.raises(MitigationError, match="no ordinary captions"):
        start(folder="no captions")


def test_no_caption_is_both_judged_by_and_left_alone() -> None:
    with pytest.raises(MitigationError, match="'a dog': it is among the ordinary captions by"):
        OrdinaryCaptions(("a cat", "a dog"), ("a car",), ("a dog",))


def test_measures_of_another_model_are_refused_before_any_work(start: Start) -> None:
    """Statistics were looked at after the suspects were confirmed."""
    inputs = start.inputs
    foreign = "v2-other"
    others = (
        (
            StatisticsError,
            replace(inputs, statistics=replace(inputs.statistics, fingerprint=foreign)),
        ),
        (ThresholdError, replace(inputs, threshold=replace(inputs.threshold, fingerprint=foreign))),
    )
    for number, (error, given) in enumerate(others):
        with pytest.raises(error, match="another model"):
            replace(start, inputs=given)(folder=f"foreign {number}")
        assert not kinds_in(start.folder / f"foreign {number}")


def test_a_denoiser_is_trained_once_with_all_confirmed_prompts(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Captions that are kept are those by which no edit is judged, and images drawn as others."""
    trained: list[tuple[Sequence[Erased], Sequence[str], GenerationSettings]] = []

    def noted(
        model: Model,
        erase: Sequence[Erased],
        keep: Sequence[str],
        settings: GenerationSettings,
        progress: Progress,
        folder: Path,
    ) -> WeightEdit:
        trained.append((tuple(erase), tuple(keep), settings))
        edit = fine_tuned_denoiser(model, erase, keep, settings, progress, folder)
        assert list(folder.iterdir())
        return edit

    monkeypatch.setattr(_trained, "fine_tuned_denoiser", noted)
    monkeypatch.setattr(_mitigate, "ladder_names", lambda _: (FINE_TUNING,))
    more = replace(start.inputs, captions=replace(CAPTIONS, further=("a plane",)))
    start = replace(start, inputs=more)
    result, run = start(folder="fine-tuning")
    assert isinstance(result.file.edit, WeightEdit)
    assert result.file.edit.source == "fine-tuning"
    confirmed = [outcome for outcome in result.outcomes if outcome.confirmed]
    assert all(outcome.rung.startswith("fine-tuning") for outcome in confirmed)
    for erase, keep, settings in trained:
        assert {each.caption for each in erase} == {outcome.prompt for outcome in confirmed}
        assert keep == ("a car", "a boat", "a plane")
        assert settings == SETTINGS.generation
    assert len({erase for erase, _, _ in trained}) == len(trained) > 0
    assert len(list(run.folder.glob("denoiser-*.json"))) == len(trained)
    assert not [path for path in run.folder.glob("denoiser-*") if path.is_dir()]
    trained.clear()
    assert start(folder="fine-tuning")[0] == result
    assert not trained


def test_a_further_training_takes_the_images_of_the_one_before(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = open_run(
        start.folder / "further",
        start.model,
        start.prompts,
        MitigationRun.of(SETTINGS, start.inputs),
    )
    stages = Stages(run, start.model, SETTINGS, Pixels(), None, Execution(), unannounced)
    served: list[bool] = []

    def noted(model: Model, *others: Any) -> WeightEdit:
        served.append((others[-1] / LATENTS).exists())
        return fine_tuned_denoiser(model, *others)

    monkeypatch.setattr(_trained, "fine_tuned_denoiser", noted)
    edits = [
        _trained.taught(stages, CAPTIONS, "denoiser", (Erased("a red cat", weight, "a cat"),))
        for weight in (1.0, 3.0, 3.0)
    ]
    assert served == [False, True]
    assert edits[0] != edits[1] == edits[2]
    assert not [path for path in run.folder.glob("denoiser-*") if path.is_dir()]


def test_a_text_encoder_that_cannot_be_trained_is_refused_before_any_work(start: Start) -> None:
    model = Model(make("DeepFloyd IF"))
    run = open_run(
        start.folder / "other",
        model,
        start.prompts,
        MitigationRun.of(replace(SETTINGS, part="text-encoder"), start.inputs),
    )
    with pytest.raises(MitigationError, match=r"not those of CLIP.*--part denoiser"):
        mitigate_all(run, model, start.inputs)
