"""What only people can say about a run, in the words of its operator. Nothing checks them.

RUN/statement.json    the statement, byte for byte as it was given
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from unmemorize._errors import RunError
from unmemorize._files import as_path, parse_json, read_bytes, refuse_unprintable
from unmemorize._paths import exists
from unmemorize.runs import Run

STATEMENT = "statement.json"
_LARGEST = 1024**2
"""Bytes. A statement is a few lines that people write."""


def _told(letter: str, title: str) -> Any:
    """Make a field of the statement, which belongs to a field of the annex."""
    return field(default=None, metadata={"letter": letter, "title": title})


@dataclass(frozen=True, kw_only=True)
class Statement:
    """What the operator of a run states. A field is None where nothing is stated.

    Args:
        run_by: who ran it.
        run_for: for whom it was run.
        model_licence: the licence of the model.
        works_chosen: how works were chosen, such as a complaint, a scan of a data set, or canaries.
        complaint: the number of the complaint that started it.
        rights: who holds which rights in the works, as the claimant states it.
        reference_images: where the reference images came from.
        human_check: whether people looked at the pictures, yes or no, and who.
        complaint_received: when the complaint came.
        complaint_answered: when it was answered, and how.
        contact: where complaints are taken.
    """

    run_by: str | None = _told("A", "who ran it")
    run_for: str | None = _told("A", "for whom")
    model_licence: str | None = _told("A", "licence of the model")
    works_chosen: str | None = _told("B", "how works were chosen")
    complaint: str | None = _told("B", "number of the complaint")
    rights: str | None = _told("B", "rights, as the claimant states them")
    reference_images: str | None = _told("B", "where reference images came from")
    human_check: str | None = _told("D", "a check by people")
    complaint_received: str | None = _told("L", "complaint received")
    complaint_answered: str | None = _told("L", "complaint answered")
    contact: str | None = _told("L", "contact for complaints")

    def words(self, letter: str | None = None) -> dict[str, str | None]:
        """Return what is stated, by title. It is None where nothing is.

        Args:
            letter: of the field of the annex; None for all fields.
        """
        return {
            each.metadata["title"]: getattr(self, each.name)
            for each in fields(self)
            if letter in (None, each.metadata["letter"])
        }


def keep_statement(run: Run, path: str | Path) -> None:
    """Copy a statement into the folder of a run. It replaces the one that is there.

    Raises:
        RunError: it is no JSON object with known keys and texts, or the folder cannot be written.
    """
    path = as_path(path, RunError, "statement")
    content = read_bytes(path, RunError, "statement", _LARGEST)
    _parsed(path, content)
    run.write(STATEMENT, content)


def read_statement(run: Run) -> Statement | None:
    """Read the statement in the folder of a run; None if there is none.

    Raises:
        RunError: it is damaged.
    """
    path = run.folder / STATEMENT
    if not exists(path):
        return None
    return _parsed(path, read_bytes(path, RunError, "statement", _LARGEST))


def _parsed(path: Path, content: bytes) -> Statement:
    names = [each.name for each in fields(Statement)]
    known = f"Known keys: {', '.join(names)}."
    texts = parse_json(content, RunError, f"{path}: not a valid statement", known)
    if not texts:
        raise RunError(f"{path}: states nothing. {known}")
    for key, text in texts.items():
        if key not in names:
            raise RunError(f"{path}: {key!r} is no key of a statement. {known}")
        if not isinstance(text, str) or not text.strip():
            raise RunError(
                f"{path}: {key!r} is {text!r:.60}, not a text that says something. Write what you "
                f"can state, or leave the key out. {known}"
            )
        refuse_unprintable({key: text}, RunError, f"{path}: {key!r}", "Write plain text.")
    return Statement(**texts)
