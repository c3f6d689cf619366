"""How much of their training images the images of a mitigation show again."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mitigated_run import DIGEST, mitigated_run
from packs import forged, read, write
from unmemorize import EvidenceError, Run, verify_evidence, write_evidence, write_report
from unmemorize.metrics import reproduced_shares
from unmemorize.mitigation import MitigationResult
from unmemorize.report import _reproduced, _wall
from unmemorize.report._evidence import read_evidence
from unmemorize.report._pictures import with_pixels
from unmemorize.report._reproduced import read_reproduced, record_reproduced
from unmemorize.report._wall import wall

KIND = f"reproduced-{DIGEST}"
CARD = re.compile(r'<article class="card" id="prompt-(\d+)">(.*?)</article>', re.DOTALL)


def cards_of(page: str) -> dict[int, str]:
    """The cards of memorized prompts without tags, by index."""
    return {int(index): re.sub("<[^>]*>", "", card) for index, card in CARD.findall(page)}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return mitigated_run(tmp_path)


def test_each_image_is_compared_with_the_training_images_of_its_prompt(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_reproduced, "_ORDINARY", 5)
    steps: list[tuple[int, int | None]] = []
    record_reproduced(run, lambda *at: steps.append(at))
    assert steps == [(1, 3), (2, 3), (3, 3)]
    found = read_reproduced(run, MitigationResult.load(run))
    assert list(found) == [0, 1, 2]
    for index, shares in found.items():
        training = Image.open(run.folder.parent / "private" / f"training-{index}.png")
        for kind, values, count in (
            ("before", shares.before, 4),
            (f"after-{DIGEST}", shares.after, 4),
        ):
            files = [run.folder / kind / f"{index:05d}_{seed:02d}.png" for seed in range(count)]
            expected = reproduced_shares([Image.open(file) for file in files], [training])
            assert values == expected
        assert len(shares.ordinary) == 5


def test_it_is_measured_once_and_not_without_training_images(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run.folder.parent / "private" / "training-1.png").unlink()
    Image.new("RGB", (16, 16)).save(run.folder.parent / "private" / "training-0.png")
    record_reproduced(run)
    assert list(run.records(KIND)) == [2]  # the first one is no longer that of the run
    monkeypatch.setattr(_reproduced, "read_image", lambda _: pytest.fail("read again"))
    record_reproduced(run)
    assert list(run.records(KIND)) == [2]


def test_the_page_says_how_much_is_shown_again_and_how_much_by_chance(run: Run) -> None:
    assert "shown again" not in write_report(run).read_text()
    run.append(KIND, 1, {"before": [0.25, 0.817], "after": [0.02, 0.01], "ordinary": [0.0, 0.031]})
    run.append(KIND, 2, {"before": [0.7], "after": [], "ordinary": [0.1]})
    cards = cards_of(write_report(run).read_text())
    assert {index for index, card in cards.items() if "shown again" in card} == {1, 2}
    assert "0.82 before, 0.02 after, at most 0.04 by" in cards[1]
    assert "0.70 before, at most 0.10 by" in cards[2]
    numbers = json.loads((run.folder / "report.json").read_text())["prompts"]
    assert numbers["1"]["reproduced_before"] == 0.817
    assert numbers["2"]["reproduced_after"] is None
    assert numbers["0"]["reproduced_before"] is None


def test_a_picture_keeps_the_pixels_that_are_shown_again(tmp_path: Path) -> None:
    run = mitigated_run(tmp_path, side=64)
    training = Image.open(tmp_path / "private" / "training-1.png")
    half = ImageOps.invert(training)
    half.paste(training.crop((0, 0, 32, 64)))
    half.save(run.folder / "before" / "00001_03.png")
    record_reproduced(run)
    entries = {each.outcome.index: each for each in wall(read_evidence(run), redact=False)}
    before, after = entries[1].shown_again
    assert before.says == "what an image before shows again of the training image, the rest is pale"
    assert after.says == before.says.replace("before", "after")
    shown = decoded(before.url)
    assert np.abs(shown[:, :26] - np.asarray(training, float)[:, :26]).mean() < 12
    grey = shown[:, 38:]
    assert (grey.max(2) - grey.min(2)).mean() < 5
    assert grey.min() > 190
    assert len(entries[0].shown_again) == 2
    page = write_report(run).read_text()
    assert page.count(f"<figcaption>W{before.says[1:]}</figcaption>") == 3


def decoded(url: str) -> NDArray[np.float64]:
    """The pixels of a picture of a page."""
    content = base64.b64decode(url.removeprefix("data:image/webp;base64,"))
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"), float)


def test_there_is_no_such_picture_where_it_is_private_unknown_or_small(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not any(each.shown_again for each in wall(read_evidence(run), redact=False))
    record_reproduced(run)
    (run.folder.parent / "private" / "training-0.png").unlink()
    evidence = read_evidence(run)
    shown = {each.outcome.index for each in wall(evidence, redact=False) if each.shown_again}
    assert shown == {1, 2}
    assert not any(each.shown_again for each in wall(evidence, redact=True))
    monkeypatch.setattr(_wall, "MOST_LARGE", 2)
    assert not any(each.shown_again for each in wall(evidence, redact=False))


def test_the_pixels_of_a_mask_are_kept() -> None:
    """A pixel of another mode than RGB, too. The others go four fifths of the way to white."""
    image = Image.new("RGBA", (4, 2), (100, 0, 200, 255))
    kept = with_pixels(image, np.array([[True, False]]))
    assert kept.mode == "RGB"
    grey = 0.299 * 100 + 0.114 * 200
    pale = int(grey + 0.8 * (255 - grey))
    left, right = (100, 0, 200), (pale, pale, pale)
    assert [kept.getpixel((x, 1)) for x in range(4)] == [left, left, right, right]


def test_the_annex_names_the_share_as_missing_until_all_have_one(run: Run) -> None:
    missing = "the share of the work that is reproduced"
    assert missing in write_report(run).read_text()
    for index in range(3):
        run.append(KIND, index, {"before": [0.5], "after": [0.1], "ordinary": [0.1]})
        assert (missing in write_report(run).read_text()) == (index < 2)


def test_a_pack_with_another_share_is_refused(run: Run, tmp_path: Path) -> None:
    record_reproduced(run)
    write_evidence(run, tmp_path / "evidence.zip")
    verify_evidence(tmp_path / "evidence.zip")
    files = read(tmp_path / "evidence.zip")
    first, *others = files[f"{KIND}.jsonl"].splitlines(keepends=True)
    changed = json.dumps(json.loads(first) | {"after": [0.99]}).encode() + b"\n"
    pack = write(
        forged(files, f"{KIND}.jsonl", b"".join([changed, *others])), tmp_path / "other.zip"
    )
    with pytest.raises(EvidenceError, match=r"prompts\.0\.reproduced_after"):
        verify_evidence(pack)
