"""The command ``diff``."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from unmemorize.cli._console import console, make_table, print_answer, print_hint, print_line
from unmemorize.report import Changed, RunDifference, Totals, difference_of, page_of
from unmemorize.runs import Run

_SHOWN = 20
"""Lines of each part on the screen. With --json there are all."""
_LONGEST = 24
"""Characters of a value on the screen."""
_DIGITS = (4, 6, 9, 17)
"""Digits of a number on the screen: as a rule the first, the last for any two that differ."""
_CONTEXT = 4
"""Characters that are shown before the first difference of two long values."""


def command(
    first: Annotated[Path, Parameter(help="Run folder.")],
    second: Annotated[Path, Parameter(help="Another run folder of the same kind.")],
    /,
) -> None:
    """Show what changed between two runs: verdicts, settings, counts and scores.

    Two mitigations are compared as a whole first: what each reached, copies among fresh images,
    ordinary images that changed, and copies among images of paraphrases.

    Rows are matched by their prompt, and where there are several of one prompt, by attack, method
    or group, too. A prompt that a list holds several times is matched by order. Prompts that only
    one run has are named. Numbers that differ by rounding alone count as the same, and measured
    times are left out.
    """
    before, after = Run.load(first), Run.load(second)
    difference = difference_of(before, after)
    _print(difference, first, second)
    print_answer(difference, first=first, second=second)
    print_hint("unmemorize report" if page_of(after) else "unmemorize status", second)


def _print(difference: RunDifference, first: Path, second: Path) -> None:
    if difference.totals:
        before, after = difference.totals
        print_line(f"{first}: {before.headline}", style="bold")
        print_line(f"{second}: {after.headline}", style="bold")
        _print_totals(before, after)
    print_line(
        f"Settings that differ: {len(difference.settings)}. Verdicts: {len(difference.verdicts)}. "
        f"Rows without a difference: {difference.same} of {difference.shared}.",
        style="bold",
    )
    _print_changes("Verdicts and neurons", difference.verdicts)
    _print_changes("Settings", difference.settings)
    _print_changes("Counts and edits", difference.others)
    _print_changes("Scores, largest differences first", difference.scores)
    for folder, names in ((first, difference.only_first), (second, difference.only_second)):
        if names:
            print_line(f"Only in {folder}: {len(names)}")
            for name in names[:_SHOWN]:
                console.print(f"  {name}", no_wrap=True, overflow="ellipsis")
            _print_rest(len(names))


def _print_totals(before: Totals, after: Totals) -> None:
    """Print the numbers of two mitigations as a whole, also those that are the same."""
    table = make_table("before", "after", text="of 1,000")
    for what, *values in (
        ("fresh images are copies", before.copies, after.copies),
        ("ordinary images changed", before.changed, after.changed),
        ("images of paraphrases are copies", before.paraphrases, after.paraphrases),
    ):
        table.add_row(*map(_text, values), what)
    console.print(table)


def _print_changes(title: str, changes: Sequence[Changed]) -> None:
    if not changes:
        return
    table = make_table("before", "after", text="of", title=title)
    for change in changes[:_SHOWN]:
        what = f"{change.column}: {change.what}" if change.column else change.what
        table.add_row(*_shown(change.before, change.after), what)
    console.print(table)
    _print_rest(len(changes))


def _print_rest(count: int) -> None:
    if count > _SHOWN:
        print_line(f"{count - _SHOWN} more; unmemorize diff --json prints all.")


def _shown(before: Any, after: Any) -> tuple[str, str]:
    if isinstance(before, list) and isinstance(after, list):
        kept = sum(each in before for each in after)
        return f"{len(before)} in all", f"{len(after)}, {kept} the same"
    if isinstance(before, float) and isinstance(after, float):
        return _apart(before, after)
    texts = _text(before), _text(after)
    if max(map(len, texts)) <= _LONGEST:
        return texts
    pairs = enumerate(zip(*texts, strict=False))
    first = next((place for place, (old, new) in pairs if old != new), min(map(len, texts)))
    start = max(0, first - _CONTEXT)
    return _cut(texts[0], start), _cut(texts[1], start)


def _apart(before: float, after: float) -> tuple[str, str]:
    """Print two numbers with as few digits as tell them apart."""
    for digits in _DIGITS:
        texts = f"{before:.{digits}g}", f"{after:.{digits}g}"
        if texts[0] != texts[1]:
            break
    return texts


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.{_DIGITS[0]}g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _cut(text: str, start: int) -> str:
    """Cut a text to a part that begins a little before the first difference."""
    text = f"...{text[start:]}" if start else text
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
