from __future__ import annotations

from pathlib import Path

import pytest

from fourfold.errors import ModelLoadError
from fourfold.formats.base import Tensor
from fourfold.formats.warmup import warm_up, zeros
from tests.formats import models


def test_zeros_fit_the_signature(tmp_path: Path) -> None:
    record = zeros([Tensor("a", "int64", (None, 2)), Tensor("b", "object", (None,))])
    assert record["a"].tolist() == [[0, 0]]
    assert record["b"].tolist() == [""]
    model = models.Counted()
    warm_up(model, {})
    assert model.batches == [1]
    warm_up(models.load(models.pair(tmp_path)), {})


def test_a_sample_must_be_answered() -> None:
    model = models.Counted()
    warm_up(model, {"FOURFOLD_WARMUP": "[[1, 2], [3, 4]]"})
    assert model.batches == [2]
    with pytest.raises(ModelLoadError, match="its FOURFOLD_WARMUP sample: ValueError: thirteen"):
        warm_up(model, {"FOURFOLD_WARMUP": "[[13, 0]]"})


def test_it_can_be_left_out() -> None:
    model = models.Counted()
    warm_up(model, {"FOURFOLD_WARMUP": "off"})
    assert model.batches == []


def test_zeros_may_fail(capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(models.Counted):
        def predict(self, inputs: object) -> dict[str, object]:  # type: ignore[override]
            raise ZeroDivisionError("nothing to divide by")

    warm_up(Broken(), {})
    assert "nothing to divide by" in capsys.readouterr().out
