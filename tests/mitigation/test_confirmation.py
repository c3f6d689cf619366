"""When the level of a copy rests on too little."""

from __future__ import annotations

import pytest

from unmemorize.mitigation import warn_of_few_captions


@pytest.mark.parametrize(
    ("captions", "rate", "most", "warns"),
    [
        (8, 0.001, None, True),
        (998, 0.001, None, True),
        (999, 0.001, None, False),
        (198, 0.005, None, True),
        (199, 0.005, None, False),
        (99, 0.005, 99, False),  # as --quick asks for
        (98, 0.005, 99, True),
    ],
)
def test_few_captions_do_not_bound_false_copies(
    caplog: pytest.LogCaptureFixture, captions: int, rate: float, most: int | None, warns: bool
) -> None:
    texts = [f"caption {number}" for number in range(captions)]
    warn_of_few_captions([*texts, *texts], rate, most)
    assert (f"rests on images of {captions} ordinary captions" in caplog.text) == warns
