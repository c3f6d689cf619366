"""The headings under which the help lists options."""

from __future__ import annotations

from cyclopts import Group

OPTIONS = Group("Options", sort_key=1)
MODEL = Group("Model", sort_key=2)
WORKERS = Group("Workers", sort_key=3)
INSTRUMENTS = Group("Instruments", sort_key=4)
