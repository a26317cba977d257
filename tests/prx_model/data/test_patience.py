"""Calls that fail in a way that may pass: a hiccup is nobody's business, a trouble that lasts is told once."""

from __future__ import annotations

import pytest

from prx_model.data.patience import SILENT_TRIES, StorageError, patiently

PAUSES_S = (0.001,) * (SILENT_TRIES + 2)


class Failing:
    def __init__(self, times: int) -> None:
        self.left = times

    def __call__(self) -> str:
        self.left -= 1
        if self.left >= 0:
            raise TimeoutError(f"no answer\n{self.left}")
        return "content"


@pytest.mark.parametrize(("times", "lines"), [(0, 0), (SILENT_TRIES, 0), (SILENT_TRIES + 1, 1), (SILENT_TRIES + 2, 1)])
def test_trouble_that_lasts_is_told_once_and_a_hiccup_is_not(caplog, times: int, lines: int):
    assert patiently(Failing(times), "s3://b/x", pauses_s=PAUSES_S) == "content"
    told = [record.getMessage() for record in caplog.records]
    assert told == ["s3://b/x could not be read yet (TimeoutError: no answer); tried again for 0 s"] * lines


def test_the_last_try_says_how_many_there_were():
    failing = Failing(len(PAUSES_S) + 1)
    with pytest.raises(
        StorageError, match=rf"^s3://b/x could not be read in {len(PAUSES_S) + 1} tries; the last: Time"
    ):
        patiently(failing, "s3://b/x", pauses_s=PAUSES_S)
    assert failing.left == 0
