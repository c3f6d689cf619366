"""What others ask of evidence, and where this report answers it. Nothing here is legal advice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from unmemorize.report._access import Access, not_tried
from unmemorize.report._evidence import Evidence
from unmemorize.report._packed_files import absent_from_unpacked
from unmemorize.report._regions import REGIONS
from unmemorize.report._statement import Statement


@dataclass(frozen=True)
class Field:
    """One field of a complete record.

    Args:
        letter: its name in the table of requirements.
        title: what it holds.
        anchors: the sections of the page that hold it; none where this record does not have it.
        missing: what of it is not recorded.
    """

    letter: str
    title: str
    anchors: tuple[str, ...]
    missing: str = ""


@dataclass(frozen=True)
class Requirement:
    """One text that asks for evidence.

    Args:
        text: where it is.
        asks: what it asks for, in our words.
        source: where that was read. None of the texts themselves was compared with these words.
        fields: letters of the fields that speak about it.
    """

    text: str
    asks: str
    source: str
    fields: tuple[str, ...]


SECTIONS = {
    "wall": "pictures",
    "certainty": "how sure it is",
    "false-alarms": "false alarms",
    "audit": "audit",
    "cost": "what it costs",
    "limits": "what was not tested",
    "how": "how to repeat it",
    "statement": "the operator's own words",
    "numbers": "all numbers",
    "annex": "annex",
}
"""What the sections of the page are called, by anchor."""
_BY_NAME = "known by name only"
REQUIREMENTS = (
    Requirement(
        "EU code of practice for general-purpose AI, chapter on copyright (10 July 2025), "
        "measure 1.4",
        "Proportionate technical safeguards against outputs that infringe training content.",
        _BY_NAME,
        ("C", "E", "G", "H", "I"),
    ),
    Requirement(
        "the same, measure 1.5",
        "A contact point, and an answer to complaints.",
        _BY_NAME,
        ("B", "L"),
    ),
    Requirement(
        "EDPB, opinion 28/2024 (17 December 2024), paragraphs 55 and 58",
        "Extraction is insignificantly likely by all means reasonably likely to be used, and the "
        "tests are documented.",
        "web pages about it; the numbers of the paragraphs as memaudit cites them",
        ("C", "I"),
    ),
    Requirement(
        "GEMA v OpenAI, LG München I, 42 O 14139/24 (11 November 2025), not final",
        "Outputs to simple prompts are compared with the training content.",
        "technollama.co.uk, debandt.eu, openfuture.eu, and a tracker of hoganlovells",
        ("C", "E"),
    ),
    Requirement(
        "NIST AI 600-1 (July 2024), action MS-2.10-001",
        "Red-teaming for training samples in outputs.",
        _BY_NAME,
        ("I",),
    ),
)


def fields_of(evidence: Evidence, access: Sequence[Access]) -> Iterator[Field]:
    """Yield the fields of a complete record, and where this report holds them.

    Args:
        evidence: a finished mitigation.
        access: what was tried on the edit, see `levels_of_access`.
    """
    result = evidence.result
    environment = evidence.run.manifest.environment
    stated = evidence.statement or Statement()
    identity = [
        "" if evidence.model_files else "hashes of the model's files",
        "" if environment.scheduler else "scheduler, device, threads",
        _not_stated(stated, "A"),
    ]
    yield Field(
        "A",
        "Identity of the model and of the tools",
        ("how", *_anchors(stated, "A")),
        "; ".join(filter(None, identity)),
    )
    yield Field("B", "Scope", ("how", *_anchors(stated, "B")), _not_stated(stated, "B"))
    left = not_tried(access, paraphrased=bool(result.paraphrases))
    yield Field("C", "Levels of access", ("certainty", "limits"), left)
    yield Field(
        "D",
        "What counts as a match",
        ("certainty", *_anchors(stated, "D")),
        _not_stated(stated, "D"),
    )
    unmeasured = [each for each in evidence.confirmed if each.index not in evidence.reproduced]
    without = "the share of the work that is reproduced" if unmeasured else ""
    yield Field("E", "Result for each work", ("wall", "numbers"), without)
    has_neurons = bool(evidence.localizations)
    missing = "tokens" if _has_regions(evidence.run.folder) else "tokens, regions"
    yield Field("F", "Where the memory is", ("wall",) if has_neurons else (), missing)
    yield Field("G", "Measure taken", ("how",) if result.edit else ())
    yield Field("H", "Effect", ("certainty", "cost") if result.edit else ())
    audited = any(each.tried for each in access)
    yield Field("I", "Residual risk", ("audit", "limits") if audited else ("limits",), left)
    yield Field("J", "False alarms", ("false-alarms",), "a rate on captions that nobody suspected")
    yield Field("K", "Reproduction", ("how",))
    log = "Log of complaints and answers"
    yield Field("L", log, _anchors(stated, "L"), _not_stated(stated, "L"))
    yield Field("M", "This annex", ("annex",))
    yield Field("N", "Limits", ("limits",))


def _has_regions(folder: Path) -> bool:
    """Tell whether a run has maps of regions, or had them when it was packed."""
    absent = absent_from_unpacked(folder)
    return (folder / REGIONS).is_dir() or any(name.startswith(f"{REGIONS}/") for name in absent)


def _anchors(statement: Statement, letter: str) -> tuple[str, ...]:
    """Return the section with the operator's words, if they speak about a field."""
    return ("statement",) if any(statement.words(letter).values()) else ()


def _not_stated(statement: Statement, letter: str) -> str:
    """Name what of a field only the operator can state, and has not stated."""
    return ", ".join(title for title, text in statement.words(letter).items() if text is None)
