"""What a command says of the copy descriptor that it takes."""

from __future__ import annotations

import pytest

from unmemorize import BundledDescriptor
from unmemorize.cli._instruments import InstrumentOptions


@pytest.mark.parametrize("bundled", [True, False])
def test_other_models_are_told_that_the_descriptor_is_not_theirs(
    bundled: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    descriptor = InstrumentOptions().load_descriptor(bundled=bundled)
    assert isinstance(descriptor, BundledDescriptor)
    assert ("give --sscd" in capsys.readouterr().out) is not bundled
