import re
from dataclasses import replace

from records import LAYER, localization
from unmemorize import Neurons
from unmemorize.localization._records import Trial
from unmemorize.report._course import HEIGHT, course


def dots(svg: str, kind: str) -> list[tuple[float, float]]:
    paths = re.findall(rf'<path class="{kind}" d="([^"]*)"', svg)
    return [
        (float(x), float(y))
        for path in paths
        for x, y in re.findall(r"M([\d.]+) ([\d.]+)h\.01", path)
    ]


def test_a_dot_for_each_trial() -> None:
    record = localization("a prompt", "VM", 0.6, Neurons({LAYER: [1, 2]}))
    svg = str(course(record))
    off, on = dots(svg, "off"), dots(svg, "on")
    assert [round((HEIGHT - 6 - y) / (HEIGHT - 12), 2) for _, y in off] == [
        0.2,
        0.25,
    ]  # 0 at the bottom, 1 at the top
    assert [round((HEIGHT - 6 - y) / (HEIGHT - 12), 2) for _, y in on] == [0.5]
    assert off[0][0] < on[0][0] < off[1][0]
    assert svg.count("<path") == 5  # with the limit, and the line between selection and refinement


def test_one_trial_or_none() -> None:
    record = localization("a prompt", "VM", 0.6, Neurons({LAYER: [1]}))
    alone = replace(record, trials={"selection": (Trial(1, 1.5, True),), "refinement": ()})
    assert dots(str(course(alone)), "off") == [(6.0, 6.0)]
    assert course(replace(record, trials={})) is None
