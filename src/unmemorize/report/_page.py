"""Pages from templates."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Self

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from unmemorize.report._rounding import rounded

REPORT = "report.html"
"""The page of a run of any kind but a comparison."""
COMPARISON = "compare.html"


@dataclass(frozen=True)
class Script:
    """The script of a page.

    Args:
        text: the script.
        digest: its SHA-256 in base64. The page allows no other script.
    """

    text: Markup
    digest: str

    @classmethod
    def read(cls, name: str) -> Self:
        """Read a script of this package by its file name."""
        text = (files("unmemorize.report") / "templates" / name).read_text(encoding="utf-8")
        return cls(Markup(text), base64.b64encode(hashlib.sha256(text.encode()).digest()).decode())


def render(template: str, script: Script | None = None, **values: Any) -> str:
    """Fill in a template of this package.

    Args:
        template: its file name.
        script: of the page.
        values: what it shows. Text is escaped; a name that is missing is an error.
    """
    environment = Environment(
        loader=PackageLoader("unmemorize.report"),
        autoescape=select_autoescape(("html", "j2")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["rounded"] = rounded
    return environment.get_template(template).render(script=script, **values)
