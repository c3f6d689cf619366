"""Every error that `unmemorize` raises on purpose, as one tree.

UnmemorizeError
├── PromptError          a prompt file or a prompt cannot be read
├── ModelError           a model cannot be loaded, or is not of a supported kind
├── NeuronError          neurons do not fit the model, or a neuron file is malformed
├── EditError            an edit is malformed, or does not fit the model
├── StatisticsError      activation statistics are malformed, or belong to another model
├── ThresholdError       a threshold cannot be calibrated, or was made under other settings
├── RunError             a run folder is damaged, or holds the run of another configuration
├── MetricError          a metric cannot be computed from what was given
├── MitigationError      a mitigation or a certificate is not possible as asked for
├── AuditError           an attack is not possible on a model, or an audit lacks what it needs
├── AlarmError           a guard has stopped all images of a call, which look like copies
├── EvidenceError        a pack of evidence cannot be written, or does not hold what it says
├── ExportError          neurons cannot be written in a format of another program
├── FetchError           a file cannot be downloaded, or is not the expected one
└── TestbedError         the bundled model is missing or cannot be made
"""

from __future__ import annotations


class UnmemorizeError(Exception):
    """Base of all errors; the message names the thing, the problem and the way out."""


class PromptError(UnmemorizeError):
    """A prompt file cannot be read, or a prompt is not usable."""


class ModelError(UnmemorizeError):
    """A model cannot be loaded, holds invalid weights, or is of a kind that is not supported."""


class NeuronError(UnmemorizeError):
    """Neurons do not fit the model they are used on, or a neuron file is malformed."""


class EditError(UnmemorizeError):
    """An edit of weights is malformed, or the model is of a kind that it does not fit."""


class DivergedError(EditError):
    """A training has lost itself in numbers that are not finite."""


class StatisticsError(UnmemorizeError):
    """Activation statistics are malformed, too few, or belong to another model."""


class ThresholdError(UnmemorizeError):
    """A threshold cannot be calibrated, is malformed, or was made under other settings."""


class RunError(UnmemorizeError):
    """A run folder is damaged, cannot be written, or holds a run of another configuration."""


class OtherRunError(RunError):
    """A folder holds another run than the one that was asked for, or one that cannot be read."""


class UnfinishedError(RunError):
    """A stage of a run waits for work that other shards do."""


class MetricError(UnmemorizeError):
    """A metric cannot be computed from what was given."""


class MitigationError(UnmemorizeError):
    """A mitigation, its confirmation or its certificate is not possible as asked for."""


class AlarmError(UnmemorizeError):
    """A guard has stopped all images of a call, because they look like copies."""


class AuditError(UnmemorizeError):
    """An attack is not possible on this model, or an audit lacks what it needs."""


class EvidenceError(UnmemorizeError):
    """A pack of evidence cannot be written, was changed, or its numbers do not follow from it."""


class ExportError(UnmemorizeError):
    """An edited model or LoRA cannot be written, or is damaged or not what it should be."""


class FetchError(UnmemorizeError):
    """A file cannot be downloaded, or what came is not the expected file."""


class TestbedError(UnmemorizeError):
    """The bundled model, its data or its training is missing something."""

    __test__ = False


def first_line(problem: BaseException) -> str:
    """Return the first line of another library's error, for the message of one of ours.

    Examples:
        >>> first_line(ValueError("no such key\\nin 400 lines")), first_line(ValueError())
        ('no such key', '')
    """
    return str(problem).strip().split("\n")[0]


for _error in (UnmemorizeError, *UnmemorizeError.__subclasses__()):
    _error.__module__ = "unmemorize"  # the name that tracebacks show is the public one
