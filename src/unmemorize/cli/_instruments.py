"""Options that say what images are measured with. Nothing here loads a library that is slow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

from unmemorize._errors import MetricError
from unmemorize.cli._groups import INSTRUMENTS

if TYPE_CHECKING:
    from unmemorize.metrics import ClipAlignment, Descriptor


@Parameter(name="*", group=INSTRUMENTS)
@dataclass(frozen=True, kw_only=True)
class InstrumentOptions:
    """What images are measured with.

    Args:
        sscd: SSCD, the paper's copy descriptor. This is the file from unmemorize fetch sscd; its
            hash is checked.
        descriptor: Another copy descriptor: an ONNX (.onnx) or TorchScript file. The default is the
            bundled one.
        descriptor_sha256: Expected hash of the file of --descriptor. TorchScript needs it, since it
            is code.
        descriptor_side: Width and height to which images are resized for --descriptor. The default
            is 320.
        clip: CLIP model for the alignment: a folder or Hub id. The bundled model has its own.
    """

    sscd: Path | None = None
    descriptor: Path | None = None
    descriptor_sha256: str | None = None
    descriptor_side: Annotated[int | None, Parameter(validator=validators.Number(gte=8))] = None
    clip: str | None = None

    def load_descriptor(self, *, bundled: bool) -> Descriptor:
        """Load the copy descriptor, and warn if it is not made for the model's images.

        Args:
            bundled: whether the model is the bundled one, which has a descriptor of its own.

        Raises:
            MetricError: it cannot be loaded, two are named, or options for a file are given without
                one.
        """
        from unmemorize.metrics import FileDescriptor, usual_descriptor

        if self.sscd is not None and self.descriptor is not None:
            raise MetricError("both --sscd and --descriptor are given. Use one of them.")
        if self.descriptor is None and (self.descriptor_sha256 or self.descriptor_side):
            raise MetricError(
                "--descriptor-sha256 and --descriptor-side are for the file of --descriptor. Add "
                "it, or leave them out."
            )
        if self.sscd is not None:
            return FileDescriptor.sscd(self.sscd)
        if self.descriptor is None:
            return usual_descriptor(bundled=bundled)
        side = {} if self.descriptor_side is None else {"side": self.descriptor_side}
        return FileDescriptor(self.descriptor, sha256=self.descriptor_sha256, **side)

    def load_clip(self, *, bundled: bool) -> ClipAlignment | None:
        """Load the CLIP, or return None if none is named.

        Args:
            bundled: whether the model is the bundled one, which has a CLIP of its own.

        Raises:
            MetricError: it cannot be loaded.
        """
        from unmemorize.metrics import ClipAlignment

        return ClipAlignment(self.clip) if self.clip or bundled else None
