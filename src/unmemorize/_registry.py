"""Implementations of an interface by name: our own, and those other packages register.

A package registers an implementation as an entry point, for example in its ``pyproject.toml``::

    [project.entry-points."unmemorize.metrics"]
    my-metric = "my_package.my_module:MyMetric"
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Generic, TypeVar, cast

from unmemorize._errors import UnmemorizeError

Implementation = TypeVar("Implementation")
_PACKAGE = "unmemorize"
_NAME = re.compile(r"(?!(all|none)$)[\w.-]+")
"""What names look like: all and none stand for whole lists, and names are parts of file names."""


class Registry(Generic[Implementation]):
    """The implementations of one interface, imported when they are first asked for.

    Args:
        group: the entry point group, such as "unmemorize.metrics".
        built_in: name -> "module:attribute" of the implementations of this package. They are
            available even if the installed metadata of the package is older than its code.
        error: what is raised for a name that is unknown or cannot be imported.

    Examples:
        >>> shapes = Registry("unmemorize.shapes", {"ordered": "collections:OrderedDict"})
        >>> shapes.names()
        ('ordered',)
        >>> shapes.get("ordered").__name__
        'OrderedDict'
    """

    def __init__(
        self,
        group: str,
        built_in: Mapping[str, str] | None = None,
        error: type[UnmemorizeError] = UnmemorizeError,
    ) -> None:
        self.group = group
        self._built_in = dict(built_in or {})
        self._error = error

    def names(self) -> tuple[str, ...]:
        """Return all names: the built-in ones first, then the others in alphabetical order."""
        others = {point.name for point in entry_points(group=self.group)} - self._built_in.keys()
        return (*self._built_in, *sorted(others))

    def get(self, name: str) -> Implementation:
        """Import the implementation of a name.

        Raises:
            UnmemorizeError: or the error given to the registry. The name is unknown, registered
                twice or not possible, or its implementation cannot be imported.
        """
        point = self._entry_point(name)
        try:
            return cast("Implementation", point.load())
        except (ImportError, AttributeError) as problem:
            raise self._error(
                f"{name}: {point.value} cannot be imported ({problem}). "
                "Install the package that provides it again."
            ) from problem

    def _entry_point(self, name: str) -> EntryPoint:
        candidates = {
            point.value: point
            for point in entry_points(group=self.group, name=name)
            # what an older version of this package registered under the name is no rival
            if not (name in self._built_in and point.dist and point.dist.name == _PACKAGE)
        }
        if name in self._built_in:
            point = EntryPoint(name, self._built_in[name], self.group)
            candidates.setdefault(point.value, point)
        if not candidates:
            known = ", ".join(self.names()) or "none"
            raise self._error(
                f"{name!r}: nothing of this name is registered as {self.group}. Known: {known}."
            )
        if not _NAME.fullmatch(name):
            raise self._error(
                f"{name!r}: registered as {self.group} ({', '.join(sorted(candidates))}), but not "
                "a name for it. Names have letters, digits, dots, hyphens and underscores, and are "
                "not all or none, which stand for whole lists. Uninstall the package, or have it "
                "renamed."
            )
        if len(candidates) > 1:
            raise self._error(
                f"{name!r}: registered more than once as {self.group} "
                f"({', '.join(sorted(candidates))}). Uninstall one of the packages."
            )
        return next(iter(candidates.values()))
