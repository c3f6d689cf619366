"""Audit an image of which no prompt is known: is it in the weights?"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from pathlib import Path

from unmemorize import testbed
from unmemorize.audit import (
    AuditInputs,
    AuditSettings,
    ImageFinding,
    audit_images_all,
    forecast_images,
    open_image_audit,
    ranks_in_words,
)
from unmemorize.mitigation import Announce, unannounced
from unmemorize.report import write_evidence
from unmemorize.ui._studio import PACK, Studio

_LONGEST = 20 * 60
"""Seconds that a visitor may be asked to wait for. A longer audit is left to the command."""
_RATE = 0.05
"""The false discovery rate; with one image, the p-value at which it is found."""


@dataclass(frozen=True)
class Audited:
    """What an audit leaves.

    Args:
        finding: what is said about the image.
        closest: the file with the most similar image that was drawn.
        pack: the pack of evidence.
        digest: its SHA-256.
    """

    finding: ImageFinding
    closest: Path
    pack: Path
    digest: str


@dataclass(frozen=True)
class ImageAudit:
    """The audit of one image.

    Args:
        studio: the model.
        picture: an image file.
    """

    studio: Studio
    picture: Path

    @property
    def settings(self) -> AuditSettings:
        """How the image is attacked."""
        quick = replace(AuditSettings.quick(), generation=self.studio.generation)
        return quick.image_first()

    @property
    def inputs(self) -> AuditInputs:
        """What it is compared with: photographs that come with this package."""
        return AuditInputs(
            edit=None,
            captions=self.studio.captions.ordinary,
            descriptor=self.studio.descriptor,
            controls=tuple(photograph.image for photograph in testbed.unused()),
            shipped=True,
        )

    @cached_property
    def seconds(self) -> float:
        """How long it takes here, by the time of one pass of the denoiser."""
        attacked = 1 + len(self.inputs.controls)
        return forecast_images(self.studio.model, self.settings, attacked).seconds

    @property
    def is_offered(self) -> bool:
        """Whether it is short enough to be waited for."""
        return self.seconds <= _LONGEST

    @property
    def sentence(self) -> str:
        """What the audit can show at best and how long it takes, before the work."""
        took = timedelta(seconds=round(self.seconds))
        return f"{ranks_in_words(1, len(self.inputs.controls), _RATE)} It takes about {took} here."

    @property
    def command(self) -> str:
        """The command that does the same."""
        name = shlex.quote(self.picture.name)
        return f"unmemorize audit --image {name} --model {self.studio.arguments} -o audit"

    def run(self, announce: Announce = unannounced) -> Audited:
        """Attack the image and the controls, and pack the evidence.

        Raises:
            AuditError: the attack is not possible on this model.
        """
        studio, images, inputs = self.studio, [self.picture], self.inputs
        folder = studio.new_folder() / "audit"
        run = open_image_audit(folder, studio.model, images, inputs, self.settings, rate=_RATE)
        (finding,) = audit_images_all(run, studio.model, images, inputs, announce=announce).findings
        pack = run.folder / PACK
        digest = write_evidence(run, pack)
        return Audited(finding, run.folder / finding.closest, pack, digest)


def finding_in_words(finding: ImageFinding) -> str:
    """Say what an audit found, and what its number means."""
    back = (
        "It does not come back"
        if finding.copied_at is None
        else f"It comes back after {finding.copied_at} steps"
    )
    return (
        f"{back} (closest {finding.score:.2f}), p = {finding.p:.3g}. p is the probability that an "
        "image which is no better known than the controls comes back as easily. It is not the "
        "probability that the image was trained on, and it says nothing about who may use it."
    )
