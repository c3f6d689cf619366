import io
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from unmemorize.cli import _console
from unmemorize.cli._console import LoggedProgress, make_table, print_hint, show_progress


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_log_gets_a_line_at_the_start_now_and_then_and_at_the_end() -> None:
    clock = Clock()
    lines: list[str] = []
    report = LoggedProgress("detect", lines.append, clock=clock, interval=10.0)
    for second, done in ((0, 4), (3, 5), (9.9, 6), (10, 7), (19.9, 8), (20, 9), (21, 10)):
        clock.now = 100.0 + second
        report(done, 10)
    assert lines == [
        "detect: 4 of 10",
        "detect: 7 of 10, 0:00:10 elapsed, 0:00:10 left",
        "detect: 9 of 10, 0:00:20 elapsed, 0:00:04 left",
        "detect: 10 of 10, 0:00:21 elapsed",
    ]


def test_a_log_of_unknown_length_and_of_finished_work() -> None:
    clock = Clock()
    lines: list[str] = []
    report = LoggedProgress("read", lines.append, clock=clock, interval=10.0)
    report(0, None)
    clock.now += 30
    report(3, None)
    assert lines == ["read: 0", "read: 3, 0:00:30 elapsed"]
    lines.clear()
    report = LoggedProgress("read", lines.append, clock=clock)
    report(5, 5)
    report(5, 5)
    assert lines == ["read: 5 of 5"]


def test_stalled_work_has_no_time_left() -> None:
    clock = Clock()
    lines: list[str] = []
    report = LoggedProgress("read", lines.append, clock=clock, interval=10.0)
    report(2, 8)
    clock.now += 60
    report(2, 8)
    assert lines[-1] == "read: 2 of 8, 0:01:00 elapsed"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_terminal_gets_a_bar_and_a_pipe_gets_lines(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = io.StringIO()
    monkeypatch.setattr(_console, "errors", Console(file=output, force_terminal=terminal, width=80))
    with show_progress("count [1]") as progress:
        progress(0, 2)
        progress(2, 2)
    text = output.getvalue()
    if terminal:
        assert "\x1b[" in text
        assert "2/2" in text
    else:
        assert text.splitlines()[0] == "count [1]: 0 of 2"
        assert text.splitlines()[1].startswith("count [1]: 2 of 2")
        assert len(text.splitlines()) == 2


def test_a_long_group_leaves_room_for_the_prompt() -> None:
    output = io.StringIO()
    table = make_table("score", "group", text="prompt")
    table.add_row("0.900", "a group with a name that takes half of the line", "a cat on a mat")
    table.add_row(
        "0.100", "日本語のとても長いグループ名前です、本当に", "夕暮れの海辺を歩く黒い猫" * 9
    )
    Console(file=output, width=80).print(table)
    lines = output.getvalue().splitlines()
    assert {cell_len(line) for line in lines} == {80}
    assert "a cat on a mat" in output.getvalue()
    assert "夕暮れの海辺を" in lines[-2]


def test_a_hint_quotes_paths_and_leaves_out_empty_parts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    print_hint("unmemorize report", Path("my run"), "", "--redact")
    assert capsys.readouterr().out == "Next: unmemorize report 'my run' --redact\n"
