"""Everything that a finished mitigation has left, as typed records."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from unmemorize._errors import RunError
from unmemorize._prompts import Prompt
from unmemorize.localization import Localization, read_localizations
from unmemorize.mitigation import (
    ConfirmationRecord,
    ImagesRecord,
    MitigationResult,
    MitigationRun,
    PromptOutcome,
    read_confirmations,
    read_image_records,
)
from unmemorize.report._reproduced import Reproduced, read_reproduced
from unmemorize.report._statement import Statement, read_statement
from unmemorize.runs import (
    Run,
    StoredImage,
    kinds_in,
    read_model_files,
    run_prompts,
    stored_images,
)

BEFORE = "before"
_TRIED = re.compile(r"(search|certificate|count)(?:-(\d+))?-([0-9a-f]+)(-again)?")
"""Kinds of records about one edit, by its digest."""


@dataclass(frozen=True)
class Tried:
    """What one edit did to one prompt.

    Args:
        stage: "search", "search, again", "certificate" or "count", see docs/mitigation.md.
        attempt: of the certificate; None in the search.
        edit: the digest of the edit.
        copies, images: how many of the images were copies. A stage ends early at a copy too many.
    """

    stage: str
    attempt: int | None
    edit: str
    copies: int
    images: int


@dataclass(frozen=True)
class Evidence:
    """A finished mitigation.

    Args:
        run: the run folder.
        mitigation: what determines the run.
        result: its verdicts.
        prompts: the suspects, in the order of the run.
        references: the training images of each suspect, with their hashes.
        confirmations: what the unedited images show, by index of the suspect.
        localizations: the neurons of confirmed prompts, by index.
        tried: what each edit did, by index.
        reproduced: how much of a training image images show again, by index.
        model_files: SHA-256 of the files that the model was loaded from, by their path in its
            folder; empty where it has no files.
    """

    run: Run
    mitigation: MitigationRun
    result: MitigationResult
    prompts: tuple[Prompt, ...]
    references: tuple[tuple[StoredImage, ...], ...]
    confirmations: Mapping[int, ConfirmationRecord]
    localizations: Mapping[int, Localization]
    tried: Mapping[int, tuple[Tried, ...]]
    reproduced: Mapping[int, Reproduced]
    model_files: Mapping[str, str]

    @cached_property
    def before(self) -> Mapping[int, ImagesRecord]:
        """The unedited images of the suspects that were generated, by index."""
        return read_image_records(self.run, BEFORE)

    @cached_property
    def statement(self) -> Statement | None:
        """What the operator states; None where there is no statement."""
        return read_statement(self.run)

    @property
    def confirmed(self) -> tuple[PromptOutcome, ...]:
        """The memorized prompts."""
        return tuple(outcome for outcome in self.result.outcomes if outcome.confirmed)

    @property
    def called(self) -> tuple[PromptOutcome, ...]:
        """The suspects that the screen called."""
        return tuple(outcome for outcome in self.result.outcomes if outcome.before)


def read_evidence(run: Run) -> Evidence:
    """Read a finished mitigation.

    Raises:
        RunError: it is not finished, a record is damaged, or an earlier version made it.
    """
    mitigation = run.settings(MitigationRun)
    result = MitigationResult.load(run)
    confirmations = read_confirmations(run)
    for outcome in result.outcomes:
        if outcome.before and outcome.index not in confirmations:
            raise RunError(
                f"{run.folder}: nothing is recorded about what confirmed prompt {outcome.index}. "
                "Repeat unmemorize mitigate; it computes only what is missing."
            )
    return Evidence(
        run=run,
        mitigation=mitigation,
        result=result,
        prompts=tuple(run_prompts(run)),
        references=tuple(stored_images(run)),
        confirmations=confirmations,
        localizations=read_localizations(run) if any(run.files("localizations")) else {},
        tried=_tried(run),
        reproduced=read_reproduced(run, result),
        model_files=read_model_files(run),
    )


def _tried(run: Run) -> dict[int, tuple[Tried, ...]]:
    """Collect what each edit did to each prompt, in the order in which it was looked at."""
    tried: dict[int, list[tuple[float, Tried]]] = defaultdict(list)
    for kind in sorted(kinds_in(run.folder)):
        found = _TRIED.fullmatch(kind)
        if not found:
            continue
        stage, attempt, edit, again = found.groups()
        name, number = stage + (", again" if again else ""), int(attempt) if attempt else None
        times = run.times(kind)
        for index, record in read_image_records(run, kind).items():
            entry = Tried(name, number, edit, record.copies, len(record.seeds))
            tried[index].append((times[index], entry))
    return {
        index: tuple(entry for _, entry in sorted(entries, key=lambda pair: pair[0]))
        for index, entries in tried.items()
    }
