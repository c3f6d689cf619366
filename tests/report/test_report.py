import base64
import hashlib
import html
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from records import HOSTILE, LAYER, localization
from unmemorize import Neurons, Prompt, Run, RunError, write_report
from unmemorize.report import read_results, summary_table
from unmemorize.report._table import precision_recall
from unmemorize.runs import start_run


@pytest.fixture
def build(tmp_path: Path) -> Callable[..., Run]:
    """A run folder written by hand."""

    def make(
        prompts: list[Prompt], found: list[Neurons | None], copies: dict[str, float] | None = None
    ) -> Run:
        run = start_run(tmp_path / "run", prompts, {"fingerprint": "f"}, model=HOSTILE)
        for index, (prompt, neurons) in enumerate(zip(prompts, found, strict=True)):
            run.append(
                "localizations",
                index,
                localization(prompt.text, prompt.group, 0.6 if neurons else 0.2, neurons).to_json(),
            )
        for variant, score in (copies or {}).items():
            images = Run.open(run.folder / "images" / variant, {"on": ""})
            hashes = {"descriptor_sha256": "1" * 64, "clip_sha256": "2" * 64}
            metrics = Run.open(
                run.folder / "metrics" / variant, {"descriptor": "d", "clip": "c", **hashes}
            )
            for index, neurons in enumerate(found):
                if neurons is not None:
                    Image.new("RGB", (32, 32), (index * 20, 90, 30)).save(
                        images.folder / f"{index}.png"
                    )
                    images.append("images", index, {"files": [f"{index}.png"] * 2, "neurons": {}})
                    metrics.append(
                        "metrics",
                        index,
                        {
                            "sscd_orig": [score, score],
                            "sscd_gen": [score, score],
                            "diversity": score,
                            "alignment": [0.3],
                        },
                    )
        return run

    return make


class Elements(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [
            value for name, value in attrs if name in ("src", "href", "xlink:href") and value
        ]


def test_prompts_and_names_are_escaped_and_nothing_is_external(build: Callable[..., Run]) -> None:
    prompts = [Prompt(HOSTILE, "VM", group=HOSTILE), Prompt("plain", group="unmemorized")]
    run = build(
        prompts,
        [Neurons({LAYER: [3]}), None],
        {"original": 0.9, "refined": 0.1, "random-refined": 0.8},
    )
    page = write_report(run, {HOSTILE: Neurons({LAYER: [3, 4]})}).read_text(encoding="utf-8")
    elements = Elements(page)
    assert elements.tags.count("script") == 1
    script = page[page.index("<script>") + len("<script>") : page.index("</script>")]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page
    assert all(link.startswith(("data:image/webp;base64,", "#")) for link in elements.links)
    assert not re.search(r"url\((?!#)", page)
    assert page.count("&lt;script&gt;") >= 3
    assert elements.tags.count("article") == 1


def test_report_grows_with_the_steps(build: Callable[..., Run]) -> None:
    run = build([Prompt("one", "VM"), Prompt("two")], [Neurons({LAYER: range(70)}), None])
    page = write_report(run).read_text(encoding="utf-8")
    assert "1 of 2" in page
    assert "and 10 more" in page
    assert "<img" not in page


def test_report_of_nothing_memorized(build: Callable[..., Run]) -> None:
    page = write_report(build([Prompt("one")], [None])).read_text(encoding="utf-8")
    assert "No prompt was detected as memorized." in page


def test_report_needs_localizations(tmp_path: Path) -> None:
    run = Run.open(tmp_path / "run", {"model": "m", "fingerprint": "f"})
    run.write("prompts.jsonl", "")
    with pytest.raises(RunError, match="nothing is localized"):
        write_report(run)


def test_table_counts_by_group(build: Callable[..., Run]) -> None:
    prompts = [
        Prompt("one", "VM"),
        Prompt("two", "VM"),
        Prompt("three", "TM"),
        Prompt("four", group="unmemorized"),
    ]
    found = [Neurons({LAYER: [1, 2]}), Neurons({LAYER: [1, 2, 3, 4]}), None, None]
    table = summary_table(
        read_results(build(prompts, found, {"original": 0.9, "refined": 0.1})),
        {"one": Neurons({LAYER: [1]}), "two": Neurons()},
    )
    rows = {row.label: [cell.figure for cell in row.cells] for row in table.rows}
    intervals = {row.label: [cell.interval for cell in row.cells] for row in table.rows}
    assert table.columns == ("overall", "VM", "TM", "unmemorized")
    assert rows["detected as memorized"] == ["2 of 3", "2 of 2", "0 of 1", "0 of 1"]
    assert rows["neurons, refined"] == ["3.00 ± 1.00 (n=2)", "3.00 ± 1.00 (n=2)", "", ""]
    assert intervals["neurons, refined"][1:] == ["2.00 to 4.00", "", ""]
    assert rows["precision, known neurons"][1:] == ["0.50 ± 0.00 (n=1)", "", ""]
    assert rows["recall, known neurons"][1:] == ["1.00 ± 0.00 (n=1)", "", ""]
    assert rows["copy score, before"][0] == "0.90 ± 0.00 (n=2)"
    assert rows["copy score, neurons off"][0] == "0.10 ± 0.00 (n=2)"
    assert "same as before, before" not in rows


def test_precision_and_recall() -> None:
    assert precision_recall(Neurons({"a": [1, 2]}), Neurons({"a": [2, 3, 4, 5]})) == (0.5, 0.25)
    assert precision_recall(Neurons(), Neurons({"a": [2]})) == (0.0, 0.0)


def headings(page: str) -> list[str]:
    return re.findall(r'<div class="plot"><h3>(.*?)</h3>', page)


def test_no_text_of_a_plot_juts_out(build: Callable[..., Run]) -> None:
    page = write_report(
        build([Prompt("one", "VM"), Prompt("two", "VM")], [Neurons({LAYER: [1]}), None])
    ).read_text(encoding="utf-8")
    text = re.search(r'font-size: (\d+)px[^>]* y="([\d.-]+)"[^>]*> tau = ', page)
    assert text is not None
    assert float(text[2]) >= 0.8 * float(text[1])  # the baseline, and the letters above it


def test_every_plot_is_there_when_it_has_something_to_show(build: Callable[..., Run]) -> None:
    prompts = [Prompt("one", "VM"), Prompt("two", "VM"), Prompt("three", group="unmemorized")]
    run = build(
        prompts,
        [Neurons({LAYER: [1, 2]}), Neurons({LAYER: [2]}), None],
        {"original": 0.9, "refined": 0.1, "random-refined": 0.8},
    )
    for place, (name, on) in enumerate(
        (("original", ""), ("top-5", ""), ("original-on-coco", "coco"), ("top-5-on-coco", "coco"))
    ):
        run.append(
            "quality",
            place,
            {
                "set": name,
                "on": on,
                "against": "real",
                "kind": "FID",
                "extractor": "x",
                "extractor_sha256": "1" * 64,
            }
            | QUALITY,
        )
    page = write_report(run).read_text(encoding="utf-8")
    assert headings(page) == [
        "Similarity between seeds",
        "Copies",
        "Copies and diversity",
        "Neurons of a prompt",
        "Neurons of a layer",
        "Neurons that several prompts share",
        "Quality against neurons off",
    ]
    assert "coco, against real" in page
    assert "memorized prompts, against real" in page
    assert page.count('class="course"') == 2
    assert "copy score 0.10, worst seed 0.10" in page
    assert "the same for the worst seed of each prompt, neurons off" in page
    assert "of the same layers, as a control" in page


QUALITY = {"fid": 5.0, "kid": 0.1, "kid_std": 0.01, "generated": 10}


@pytest.mark.parametrize("group", ["$50 & $60", "a $x_{1$ b", "_hidden", "\u732b \U0001f993"])
def test_names_of_groups_are_no_mathematics(build: Callable[..., Run], group: str) -> None:
    page = write_report(
        build(
            [Prompt("one", "VM", group=group), Prompt("two", "VM")],
            [Neurons({LAYER: [1]}), Neurons({LAYER: [2]})],
        )
    )
    drawn = (
        page.read_text(encoding="utf-8")
        .split("<h2>All prompts</h2>")[0]
        .split('<div class="plots">')[1]
    )
    assert html.escape(group, quote=False) in drawn


def test_training_images_that_were_given_to_evaluate(
    build: Callable[..., Run], tmp_path: Path
) -> None:
    run = build([Prompt("one", "VM")], [Neurons({LAYER: [1]})], {"original": 0.9})
    assert "training image</figcaption>" not in write_report(run).read_text(
        encoding="utf-8"
    ).replace("\n", "")
    Image.new("RGB", (8, 8), (9, 9, 9)).save(tmp_path / "0001_x.png")
    metrics = Run.load(run.folder / "metrics" / "original")
    record = {
        **metrics.records("metrics")[0],
        "references": {
            "used": 1,
            "missing": [],
            "unreadable": [],
            "paths": [str(tmp_path / "0001_x.png")],
        },
    }
    (metrics.folder / "metrics.jsonl").unlink()
    metrics.append("metrics", 0, record)
    assert "training image</figcaption>" in write_report(run).read_text(encoding="utf-8").replace(
        "\n", ""
    )
