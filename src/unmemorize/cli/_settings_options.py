"""Options made from the fields of the settings that the library takes.

Names, types, defaults and help come from the settings dataclass and its docstring, so a field that
is added there is an option here.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import MISSING, field, fields, is_dataclass, make_dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, TypeVar, get_type_hints

from cyclopts import Parameter
from docstring_parser import parse

from unmemorize._errors import ModelError

Settings = TypeVar("Settings")

_NOT_OFFERED = {("NoiseSettings", "steps")}
"""Fields without an option: every published threshold is for the paper's 50 scheduler steps."""

_SWITCHES = {
    "use_theta": ("--no-theta", "Select candidates by activation only (an ablation in the paper)."),
    "use_top_k": ("--no-top-k", "Select candidates by z-score only (an ablation in the paper)."),
}
"""Fields that are on by default, with the option that turns each of them off."""

_BUNDLED = {
    ("LocalizationSettings", "criterion"),
    ("GenerationSettings", "steps"),
    ("GenerationSettings", "guidance"),
}
"""Fields for which the bundled model has a default of its own, see `testbed.defaults`."""


_PUBLISHED = {
    "NoiseSettings": ("similarity", "protocol"),
    "Calibration": ("reduction", "deviations", "max_fpr"),
    "LocalizationSettings": ("criterion", "refinement"),
}
"""Fields that --published sets, by settings with a constructor ``published``."""


class OptionsOf(Generic[Settings]):
    """The fields of a settings dataclass as options; what is not set stays open.

    ``OptionsOf[NoiseSettings]`` is a dataclass with the same fields, each None by default.

    Examples:
        >>> from unmemorize.detection import NoiseSettings
        >>> made = OptionsOf[NoiseSettings](seeds=4).settings(guidance=7.0)
        >>> made.seeds, made.guidance, made.steps
        (4, 7.0, 50)
    """

    default_from: ClassVar[str] = ""
    _settings: ClassVar[type[Any]]

    if TYPE_CHECKING:

        def __init__(self, **values: Any) -> None: ...

    def __class_getitem__(cls, settings: Any) -> Any:
        """Make the options for a settings dataclass."""
        if isinstance(settings, TypeVar):
            return super().__class_getitem__(settings)  # type: ignore[misc]
        base: Any = cls
        return _options_class(base, settings)

    @property
    def values(self) -> dict[str, Any]:
        """The fields that were set on the command line."""
        chosen = {name: value for name, value in vars(self).items() if value is not None}
        return {name: not value if name in _SWITCHES else value for name, value in chosen.items()}

    @property
    def arguments(self) -> str:
        """The fields that were set, as arguments of a next command.

        Examples:
            >>> from unmemorize.detection import NoiseSettings
            >>> OptionsOf[NoiseSettings](seeds=4, guidance=7.0).arguments
            '--seeds 4 --guidance 7.0'
        """
        words: list[str] = []
        for name, value in vars(self).items():
            if name in _SWITCHES and value:
                words += _SWITCHES[name][:1]
            elif name not in _SWITCHES and value is not None:
                words += [f"--{name.replace('_', '-')}", str(value)]
        return shlex.join(words)

    def settings(self, **defaults: Any) -> Settings:
        """Make the settings.

        Args:
            defaults: values for fields that were not set, before the defaults of the dataclass.
        """
        made: Settings = self._settings(**{**defaults, **self.values})
        return made

    def published(self, **defaults: Any) -> Settings:
        """Make the settings of the published code, with the other options that were set.

        Args:
            defaults: as in `settings`.

        Raises:
            ModelError: an option says something else than the published code does.

        Examples:
            >>> from unmemorize.detection import NoiseSettings
            >>> OptionsOf[NoiseSettings](seeds=4).published().similarity
            'published'
        """
        published = self._settings.published()
        fixed = {name: getattr(published, name) for name in _PUBLISHED[self._settings.__name__]}
        for name, value in self.values.items():
            if name in fixed and value != fixed[name]:
                option = f"--{name.replace('_', '-')}"
                raise ModelError(
                    f"{option} {value}: --published means "
                    f"{f'{option} {fixed[name]}' if fixed[name] is not None else f'no {option}'}. "
                    "Leave one of the two out."
                )
        return self.settings(**{**defaults, **fixed})


class CalibratedOptionsOf(OptionsOf[Settings]):
    """Options whose defaults come from the threshold file."""

    default_from = "as calibrated"


@cache
def _options_class(base: Any, settings: Any) -> Any:
    hints = get_type_hints(settings)
    about = {entry.arg_name: entry.description or "" for entry in parse(settings.__doc__).params}
    options: list[Any] = []
    for each in fields(settings):
        if is_dataclass(hints[each.name]) or (settings.__name__, each.name) in _NOT_OFFERED:
            continue
        if each.name in _SWITCHES:
            name, text = _SWITCHES[each.name]
            parameter = Parameter(name=name, help=text, show_default=False)
        else:
            parameter = Parameter(
                help=_sentence(about.get(each.name, "")),
                show_default=_shown_default(base, settings, each.name, each.default),
            )
        optional: Any = hints[each.name] | None
        options.append((each.name, Annotated[optional, parameter], field(default=None)))
    namespace = {"_settings": settings, "__module__": __name__}
    name = f"{base.__name__}{settings.__name__}"
    made = make_dataclass(
        name, options, bases=(base,), namespace=namespace, frozen=True, kw_only=True
    )
    return Parameter(name="*")(made)


def _shown_default(base: Any, settings: Any, name: str, default: Any) -> str | bool:
    known = default is not None and default is not MISSING
    notes = [f"{default:g}" if isinstance(default, float) else str(default)] if known else []
    if base.default_from:
        notes.insert(0, base.default_from)
    if (settings.__name__, name) in _BUNDLED:
        notes.append("the bundled model has its own")
    return "; ".join(notes) or False


def _sentence(text: str) -> str:
    """Turn the description of a field into help: begin with a capital, and drop code quotes."""
    plain = re.sub(r"`+", "", " ".join(text.split()))
    return plain[:1].upper() + plain[1:]
