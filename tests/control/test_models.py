"""What a model's Environment says of its calls."""

from __future__ import annotations

import pytest

from fourfold.config import Limits
from fourfold.control.models import batching
from fourfold.errors import ModelLoadError


@pytest.mark.parametrize(
    "environment",
    [
        {"FOURFOLD_MAX_DELAY_MS": "60000"},
        {"FOURFOLD_MAX_DELAY_MS": "1e9"},
        {"FOURFOLD_MAX_DELAY_MS": "2000", "SAGEMAKER_MODEL_SERVER_TIMEOUT": "2"},
    ],
)
def test_calls_are_not_kept_back_for_all_the_time_that_they_have(environment: dict[str, str]) -> None:
    with pytest.raises(ModelLoadError, match="FOURFOLD_MAX_DELAY_MS"):
        batching(environment, Limits())


def test_a_delay_within_the_time_of_a_call_is_kept() -> None:
    found = batching({"FOURFOLD_MAX_DELAY_MS": "61000", "SAGEMAKER_MODEL_SERVER_TIMEOUT": "62"}, Limits())
    assert (found.max_delay, found.timeout) == (61.0, 62.0)
