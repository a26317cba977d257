from __future__ import annotations

import time

import yaml

from prx_model.data.manifest import Skipped
from prx_model.encoding.listing import Source
from prx_model.encoding.plan import Plan
from prx_model.encoding.unit import UnitCard
from prx_model.experiment import DataConfig
from sweeps.encoding.job import Progress, failures, reason_of
from sweeps.encoding.progress import EncodeWatch, data_section, first_examples, pace
from tests.stores import write_store

PLAN = Plan(
    source=Source(location="/photos", layout="folder"),
    settings={},
    num_items=100,
    num_heldout=5,
    num_candidates=8,
    rows_per_unit=30,
)
SKIPPED = Skipped(key="a", reason="not an image")


def _card(unit: int) -> UnitCard:
    return UnitCard(
        unit=unit,
        num_items=30,
        shard=None,
        piece=None,
        skipped=(SKIPPED,),
        cut_captions=0,
        longest_text=3,
        seconds=1.0,
    )


def _watch(seconds: float) -> EncodeWatch:
    watch = EncodeWatch(Progress(plan=PLAN, units={0: _card(0)}))
    watch.last, watch.started = (20, 2, 40_000_000), time.monotonic() - seconds
    return watch


def test_a_line_counts_what_was_there_but_takes_its_pace_from_this_start():
    line = _watch(seconds=10.0).line()
    assert "50 of 100 samples" in line
    assert "2.0 samples/s, 4.0 MB/s" in line
    assert "about 25 s left" in line
    assert "3 left out" in line
    assert "failed" not in line


def test_before_the_first_item_there_is_no_pace():
    line = EncodeWatch(Progress(plan=PLAN, units={})).line()
    assert "0 of 100 samples" in line
    assert "starting" in line
    assert "/s" not in line


def test_failed_units_are_counted_and_named_with_their_items():
    watch = _watch(seconds=10.0)
    watch.progress.failed[3] = "OSError: x"
    assert "1 failed" in watch.line()
    assert failures(watch.progress) == ["train-00003.parquet (items 90 to 99): OSError: x"]


def test_the_end_tells_the_pace_of_this_start_alone():
    watch = _watch(seconds=10.0)
    watch.progress.actors = 2
    assert pace(watch.progress, watch, 30.0).startswith("this start 20 samples in 30 s with 2 actors: 2.0 samples/s")
    assert pace(watch.progress, watch, 30.0).endswith("30 were there already")


def test_the_first_item_of_each_reason_is_the_example():
    other = Skipped(key="b", reason="empty caption")
    assert first_examples([SKIPPED, other, Skipped(key="c", reason="not an image")]) == {
        "not an image": SKIPPED,
        "empty caption": other,
    }


def test_the_reason_of_an_error_is_its_innermost_cause_in_one_line():
    outer = RuntimeError("task failed")
    outer.__cause__ = ValueError("resolution: got 17,\n allowed is 16")
    assert reason_of(outer) == "resolution: got 17, allowed is 16"
    assert reason_of(KeyError("x")) == "KeyError: 'x'"
    assert reason_of(MemoryError("CUDA out of memory")).endswith("lower --batch-size")


def test_the_data_section_is_yaml_that_a_search_space_takes(tmp_path):
    manifest = write_store(tmp_path / "store", num_train=20, num_heldout=7)
    values = yaml.safe_load("\n".join(data_section("s3://bucket/a store", manifest)))["data"]
    config = DataConfig(**values)
    assert (config.source, config.path) == ("store", "s3://bucket/a store")
    assert (config.num_heldout, config.resolution) == (7, manifest.resolution)
    assert config.max_text_tokens == manifest.max_text_tokens
