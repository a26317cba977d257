"""What training tells of a step: losses, times, and the looks that the caller takes at samples of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prx_model.metrics.suite import SuiteResult


class Looks(Iterator[SuiteResult]):
    """The looks at one evaluation, ever more samples at a time, each made when it is asked for.

    last: the latest one made; None before the first.
    Raises ValueError if one is asked for after training went on: it would be a look at other weights.
    """

    def __init__(self, looks: Iterator[SuiteResult], *, step: int, current_step: Callable[[], int]) -> None:
        """`looks` sample from the weights as they then are: those of `step` while current_step() is `step`."""
        self._looks = looks
        self._step = step
        self._current_step = current_step
        self._is_over = False
        self.last: SuiteResult | None = None

    def __next__(self) -> SuiteResult:
        if self._is_over:
            raise StopIteration
        now = self._current_step()
        if now != self._step:
            raise ValueError(
                f"a look at step {self._step} was asked for when training was at step {now}; "
                "look before you ask for the next evaluation"
            )
        try:
            self.last = next(self._looks)
        except StopIteration:
            self._is_over = True
            raise
        return self.last


@dataclass(frozen=True, kw_only=True)
class Pause:
    """Training has paused after `step` optimizer steps, on all workers, for the caller to save its state."""

    step: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is known after `step` optimizer steps. Losses, rates and times are of all steps since the evaluation before.

    That holds across pauses and resumes: a killed run tells the same, but for the time it takes.

    looks: metrics on ever more samples, the last time on all. Nothing is sampled until the caller iterates, and no
        more once it stops, which several workers must do after the same look. They end with the step: see Looks.
    data_s: seconds spent waiting for batches. A GPU goes on working meanwhile.
    train_s: all other seconds of training, up to the moment when the device had finished.
    images_per_s: over both.
    """

    step: int
    looks: Looks
    flow_loss: float
    repa_loss: float | None
    grad_norm: float
    images_per_s: float
    data_s: float
    train_s: float

    def scores(self) -> SuiteResult:
        """The metrics on all samples: takes the looks that are left. A second call returns the same."""
        for _ in self.looks:
            pass
        assert self.looks.last is not None, "an evaluation without looks"
        return self.looks.last
