"""Pages from templates."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape


def render(template: str, **values: Any) -> str:
    """Fill in a template of this package.

    Args:
        template: its file name.
        values: what it shows. Text is escaped; a name that is missing is an error.
    """
    environment = Environment(
        loader=PackageLoader("unmemorize.report"),
        autoescape=select_autoescape(("html", "j2")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)
