"""What a command says of the copy descriptor that it takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from unmemorize import BundledDescriptor, MetricError
from unmemorize.cli._instruments import InstrumentOptions


@pytest.mark.parametrize("bundled", [True, False])
def test_other_models_are_told_that_the_descriptor_is_not_theirs(
    bundled: bool, caplog: pytest.LogCaptureFixture
) -> None:
    descriptor = InstrumentOptions().load_descriptor(bundled=bundled)
    assert isinstance(descriptor, BundledDescriptor)
    assert ("give SSCD (--sscd" in caplog.text) is not bundled


@pytest.mark.parametrize(
    "options",
    [
        InstrumentOptions(descriptor_sha256="0"),
        InstrumentOptions(descriptor_side=64),
        InstrumentOptions(sscd=Path("s.pt"), descriptor_side=64),
    ],
)
def test_options_for_the_file_of_a_descriptor_need_one(options: InstrumentOptions) -> None:
    with pytest.raises(MetricError, match="the file of --descriptor"):
        options.load_descriptor(bundled=True)
