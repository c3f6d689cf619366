"""What the page works with, and the three paths without a browser."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from contextlib import nullcontext
from copy import copy
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from colours import noise
from conftest import PLANTED_PROMPT, PROMPTS, make_pipeline
from studio import FEW_STEPS, OTHER_PROMPT, flat_picture, planted_studio
from unmemorize import (
    MetricError,
    Model,
    ModelError,
    NeuronError,
    NeuronFile,
    PromptError,
    RunError,
    calibrate_guard,
    testbed,
)
from unmemorize.audit import AuditSettings, ImageFinding
from unmemorize.cli._instruments import InstrumentOptions
from unmemorize.cli._studio import open_studio
from unmemorize.generation import NeuronEdit, generate
from unmemorize.metrics import copy_scores
from unmemorize.report import verify_evidence
from unmemorize.runs import Run, StoredImage
from unmemorize.ui import _audit_image, _check_prompt
from unmemorize.ui._audit_image import ImageAudit, finding_in_words
from unmemorize.ui._check_image import check_image, ordinary_images, prompts_in
from unmemorize.ui._check_prompt import Drawing, detect, draw, verdict
from unmemorize.ui._mend import example_suspects, mend, read_suspects
from unmemorize.ui._mend_tab import verdicts
from unmemorize.ui._studio import Studio, why_no_guard
from unmemorize.ui._switch_off import Comparison, compare, localize, save_neurons


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("studio")


@pytest.fixture(scope="module")
def studio(folder: Path) -> Iterator[Studio]:
    made = planted_studio(folder)
    yield made
    made.close()


def pixels(images: Any) -> list[Any]:
    return [np.asarray(image).tolist() for image in images]


def test_a_prompt_is_judged_and_drawn(studio: Studio) -> None:
    memorized = detect(studio, studio.prompt(f" {PLANTED_PROMPT} "))
    other = detect(studio, studio.prompt(OTHER_PROMPT))
    assert (memorized.memorized, other.memorized) == (True, False)
    assert verdict(memorized).startswith("4 of 4 seeds lead to nearly the same image")
    assert verdict(other).startswith("Different initial noise leads to different images")
    by_norm = [replace(each, detector="late-noise-magnitude") for each in (memorized, other)]
    assert verdict(by_norm[0]).startswith("Its score of late-noise-magnitude is higher than")
    assert verdict(by_norm[1]).startswith("Its score of late-noise-magnitude is like that of")
    drawing = draw(studio, studio.prompts[0], 3)
    expected = generate(studio.model, PLANTED_PROMPT, settings=replace(FEW_STEPS, images=3))
    assert pixels(drawing.images) == pixels(expected)
    embedded = studio.descriptor(drawing.training)
    assert drawing.copies == pytest.approx(copy_scores(studio.descriptor(expected), embedded))
    assert drawing.copies[0] == pytest.approx(1)  # it is its own training image
    assert drawing.guard_in_words == ""
    assert draw(studio, studio.prompt(OTHER_PROMPT), 1).copies == ()


def test_a_guard_stops_images_or_lets_them_pass(studio: Studio) -> None:
    guard = calibrate_guard(studio.model, PROMPTS)
    prompt = studio.prompts[0]
    free = draw(studio, prompt, 3, replace(guard, tau=1e9))
    assert free.guard_in_words.startswith("The guard let all 3 images pass")
    assert pixels(free.images) == pixels(draw(studio, prompt, 3).images)
    stopped = draw(studio, prompt, 3, replace(guard, tau=0.0))
    assert stopped.images == (None, None, None)
    assert stopped.copies == ()
    assert len(stopped.scores) == 3
    highest, lowest = max(stopped.scores), min(stopped.scores)
    assert stopped.guard_in_words.startswith("The guard stopped 3 of 3 images")
    some = draw(studio, prompt, 3, replace(guard, tau=lowest))
    assert sum(image is None for image in some.images) == 2
    assert some.images[stopped.scores.index(lowest)] is not None
    assert len(some.copies) == 1
    assert f"scores up to {highest:.2f}, above {lowest:.2f}" in some.guard_in_words


def test_the_guard_is_the_one_that_is_kept(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = calibrate_guard(studio.model, PROMPTS)
    monkeypatch.setattr(
        _check_prompt,
        "default_guard_threshold",
        lambda model, **_: kept if model is studio.model else None,
    )
    assert _check_prompt.guard_level(studio) is kept


def test_models_that_cannot_be_guarded(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_no_guard(studio.model, FEW_STEPS) == ""
    assert "without guidance" in why_no_guard(studio.model, replace(FEW_STEPS, guidance=1.0))
    pipe = make_pipeline()
    monkeypatch.setattr(
        type(pipe), "do_classifier_free_guidance", property(lambda _: False)
    )  # as where guidance was distilled into the model
    assert "no classifier-free guidance" in why_no_guard(Model(pipe), FEW_STEPS)


@pytest.mark.parametrize(
    ("text", "message"),
    [("\n ", "there is no prompt"), ("x" * 10_001, "has 10001 characters")],
)
def test_prompts_that_cannot_be_used(studio: Studio, text: str, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        studio.prompt(text)


def test_neurons_are_found_and_switched_off(studio: Studio) -> None:
    found = localize(studio, studio.prompts[0])
    assert found.sentence == f"{len(found.neurons)} neurons found."
    labels = list(found.labels)
    z_scores = [float(label.split("z = ")[1].rstrip(")")) for label in labels]
    assert z_scores == sorted(z_scores, reverse=True)
    assert set(found.labels.values()) == set(found.neurons)
    some = found.select(labels[:2])
    assert set(some) == {found.labels[label] for label in labels[:2]}
    with pytest.raises(NeuronError, match="no neuron is chosen"):
        found.select(["another"])
    both = compare(studio, found, some, 2)
    settings = replace(FEW_STEPS, images=2)
    assert pixels(both.before) == pixels(generate(studio.model, PLANTED_PROMPT, settings=settings))
    off = generate(studio.model, PLANTED_PROMPT, NeuronEdit(some), settings=settings)
    assert pixels(both.after) == pixels(off) != pixels(both.before)
    assert both.copies_before[0] == pytest.approx(1)
    assert both.copies_after[0] < 0.99
    saved = NeuronFile.load(save_neurons(studio, found, some))
    assert (saved.neurons, saved.found["prompt"]) == (some, PLANTED_PROMPT)
    unmemorized = localize(studio, studio.prompt(OTHER_PROMPT))
    assert unmemorized.sentence.startswith("No neuron was found")


def test_comparisons_in_words() -> None:
    known = Comparison(
        before=(), after=(), copies_before=(0.9, 0.5, 0.95), copies_after=(0.3, 0.1, 0.8)
    )
    assert "0.90 before, 0.30 now. The closest image: 0.95 before, 0.80 now." in known.sentence
    assert "is not known" in Comparison(before=(), after=()).sentence


def test_a_prompt_ends_with_its_line() -> None:
    assert prompts_in("a cat\u2028on\x85a mat\n \n a dog\r\n") == [
        "a cat\u2028on\x85a mat",
        "a dog",
    ]
    with pytest.raises(PromptError, match="Type one in each line"):
        prompts_in(" \n")


def test_images_of_prompts_are_compared_with_a_picture(studio: Studio, folder: Path) -> None:
    training, stages = folder / "training.png", []

    def announce(title: str) -> Any:
        stages.append(title)
        return nullcontext(lambda *_: None)

    texts = [PLANTED_PROMPT, OTHER_PROMPT]
    memorized, other = check_image(studio, training, texts, announce)
    assert stages[0].startswith("drawing ordinary images")
    assert stages[1:] == ["drawing for prompt 1 of 2", "drawing for prompt 2 of 2"]
    assert (memorized.status, other.status) == ("memorized", "not confirmed")
    assert [found.prompt for found in (memorized, other)] == texts
    assert memorized.confirmation.scores[0] == pytest.approx(1, abs=1e-4)
    assert memorized.verdict.startswith("Copies of ")
    assert "of 3 images. A copy scores above" in memorized.verdict
    assert "0 of 3 images. 2 confirm a prompt. A copy scores above" in other.verdict
    assert "which at most 5 % of ordinary images do" in other.verdict
    strange = flat_picture(folder)
    (found,) = check_image(studio, strange, [PLANTED_PROMPT])
    assert found.status == "not confirmed"
    with pytest.raises(MetricError, match="nothing"):
        next(check_image(studio, folder / "nothing.png", texts))


def test_ordinary_images_are_drawn_once(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ordinary_images(studio)

    def refuse(*_: Any, **__: Any) -> Any:
        raise ModelError("drawn again")

    monkeypatch.setattr("unmemorize.mitigation._ordinary.generate_each", refuse)
    again = ordinary_images(studio)
    assert again.embeddings.tolist() == first.embeddings.tolist()
    assert (len(again.images), again.rate) == (19, 0.05)
    own = {studio.captions.ordinary[0], "another prompt"}
    others = ordinary_images(studio, own=own)  # a copy among them would raise the level
    drawn = again.embeddings.tolist()
    every = cycle(studio.captions.ordinary)
    left = [image for caption, image in zip(every, drawn, strict=False) if caption not in own]
    assert others.embeddings.tolist() == left
    other = copy(studio)
    object.__setattr__(other, "generation", replace(studio.generation, steps=1))
    with pytest.raises(RunError, match="drawn again"):
        ordinary_images(other)


def test_an_audit_is_announced_before_it_is_offered(
    studio: Studio, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = flat_picture(folder)
    audit = ImageAudit(studio, picture)
    controls = len(audit.inputs.controls)
    assert f"the smallest possible p is {1 / (controls + 1):.3g}" in audit.sentence
    assert re.search(r"It takes about .*\d:\d\d:\d\d here", audit.sentence)
    assert audit.command == "unmemorize audit --image 'flat picture.png' --model MODEL -o audit"
    monkeypatch.setattr(_audit_image, "_LONGEST", audit.seconds)
    assert audit.is_offered
    monkeypatch.setattr(_audit_image, "_LONGEST", audit.seconds - 1)
    assert not audit.is_offered


def test_an_audit_leaves_a_report(
    studio: Studio, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = replace(AuditSettings.quick(), steps=(0, 1), images=1)
    controls = [SimpleNamespace(image=folder / f"control {number}.png") for number in range(2)]
    for number, control in enumerate(controls):
        noise(number, (16, 16)).save(control.image)
    monkeypatch.setattr(AuditSettings, "quick", lambda: few)
    monkeypatch.setattr(testbed, "unused", lambda: controls)
    audited = ImageAudit(studio, flat_picture(folder)).run()
    assert audited.finding.p in (1 / 3, 2 / 3, 1.0)
    assert audited.closest.is_file()
    assert verify_evidence(audited.pack).sha256 == audited.digest
    with zipfile.ZipFile(audited.pack) as archive:
        names = set(archive.namelist())
        page = archive.read("report.html").decode()
    assert "flat picture.png" in page
    linked = re.findall(r'href="([^"#:]+)"', page)
    assert linked
    assert {*linked, "images.json", "manifest.json"} <= names


@pytest.mark.parametrize(
    ("copied_at", "words"), [(None, "does not come back"), (5, "comes back after 5 steps")]
)
def test_findings_in_words(copied_at: int | None, words: str) -> None:
    finding = ImageFinding(
        file="a", image=StoredImage(path="a", absolute="/a", sha256=""), copied_at=copied_at,
        work=1, score=0.5, p=0.125, adjusted=0.5, found=False, closest="",
    )  # fmt: skip
    assert f"It {words} (closest 0.50), p = 0.125." in finding_in_words(finding)


def test_suspects_are_read_with_their_pictures(studio: Studio, tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text("prompt;images\na dog;one.png\na cat;two.png\na dog;one.png\n")
    pictures = []
    for name, value in (("one.png", 10), ("two.png", 200)):
        (tmp_path / name[:3]).mkdir()
        pictures.append(tmp_path / name[:3] / name)
        Image.new("RGB", (16, 16), (value, 0, 0)).save(pictures[-1])
    bare = read_suspects(studio, file, [])
    assert bare.sentence.startswith("2 suspects, 0 with a training image.")
    full = read_suspects(studio, file, pictures)
    assert full.sentence.startswith("2 suspects, 2 with a training image.")
    found = [prompt.images[0].read_bytes() for prompt in full.prompts]
    assert found == [picture.read_bytes() for picture in pictures]
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "one.png").write_bytes(pictures[0].read_bytes())
    with pytest.raises(PromptError, match=r"one\.png: two pictures have this name"):
        read_suspects(studio, file, [*pictures, tmp_path / "more" / "one.png"])


def test_a_model_is_mended_and_taken_home(studio: Studio) -> None:
    suspects = read_suspects(studio, example_suspects(studio), [])
    assert [prompt.images for prompt in suspects.prompts] == [
        prompt.images for prompt in studio.prompts
    ]
    titles: list[str] = []

    def announce(title: str) -> Any:
        titles.append(title)
        return nullcontext(lambda *_: None)

    mended = mend(studio, suspects, quick=True, announce=announce)
    assert {"screen", "confirm", "mapping memorized regions", "packing the evidence"} <= set(titles)
    first, second = mended.result.outcomes
    assert first.status in ("removed", "reduced", "not removed")
    assert second.status in ("not confirmed", "not tested")
    assert mended.summary.startswith(mended.result.headline)
    assert "of 19 ordinary images changed" in mended.summary
    names = {path.name for path in mended.files}
    assert {"report.html", "evidence.zip", "edit.json"} < names
    pack = next(path for path in mended.files if path.name == "evidence.zip")
    assert verify_evidence(pack).sha256 == mended.digest
    assert [path.name for path in (mended.run.folder / "regions").iterdir()] == ["00000.png"]
    assert Run.load(mended.run.folder).manifest.settings["settings"]["alpha"] == 0.5
    again = mend(studio, suspects, quick=True)
    assert (again.run.folder, again.result) == (mended.run.folder, mended.result)
    assert again.without_maps == ""
    assert [reason.split(":")[0] for reason in again.refused] == ["No checkpoint is written"]
    shown = verdicts(replace(again, refused=("No LoRA is written.",), without_maps="No maps."))
    assert shown.index("No LoRA is written.") < shown.index("No maps.")


@pytest.mark.parametrize("fails", [False, True])
def test_neurons_are_offered_when_they_can_be_searched(
    studio: Studio, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    """While images are drawn, no other work can begin. If that fails, the verdict stays."""
    pytest.importorskip("gradio")
    from unmemorize.ui._prompt_tab import PromptTab

    tab: Any = object.__new__(PromptTab)  # a page would leave sockets open
    for part in ("checked", "verdict", "drawn", "localize", "neurons", "switches"):
        setattr(tab, f"_{part}", part)
    visit: Any = SimpleNamespace(studio=studio, stage=lambda _: nullcontext(lambda *_: None))
    seen = []
    for text in (PLANTED_PROMPT, OTHER_PROMPT):
        work = tab.check(visit, text, 1, False)
        while_drawing = next(work)
        if fails:
            monkeypatch.setattr(_check_prompt, "draw", refused)
        after = next(work)
        seen += [values["localize"]["visible"] for values in (while_drawing, after)]
        assert ("drawn" in after) is not fails
        if fails:
            with pytest.raises(PromptError, match="this cannot be drawn"):
                next(work)
    assert seen == [False, True, False, False]


def refused(*_: Any) -> None:
    raise PromptError("this cannot be drawn.")


def test_the_examples_to_mend_are_those_of_the_demo(bundled: Any, tmp_path: Path) -> None:
    """All memorized prompts would take hours. Those of a file are taken as they are."""
    file = tmp_path / "prompts.txt"
    file.write_text("one\ntwo\n")
    for prompts, memorized, others in ((None, 6, 3), (file, 0, 2)):
        opened = open_studio(
            Model(bundled),
            prompts=prompts,
            statistics=None,
            threshold=None,
            instruments=InstrumentOptions(),
            arguments="testbed",
        )
        known = [bool(prompt.images) for prompt in opened.suspects]
        assert known == [True] * memorized + [False] * others
        assert {each.text for each in opened.suspects} <= {each.text for each in opened.prompts}
        opened.close()


def test_drawings_without_a_guard_say_nothing() -> None:
    assert Drawing(images=(None,)).guard_in_words == ""


def test_what_visitors_made_goes_at_the_end(folder: Path) -> None:
    closing = planted_studio(folder)
    made = closing.new_folder()
    closing.close()
    assert not made.exists()
