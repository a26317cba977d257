"""The table of metrics: what their names promise."""

from __future__ import annotations

from typing import Any

import pytest

from prx_model.metrics.features import EXTRACTORS
from prx_model.metrics.table import METRICS, MetricSpec, check_metrics, metric_spec, network_of


def test_every_metric_looks_through_a_known_network() -> None:
    assert {spec.extractor for spec in METRICS.values()} == set(EXTRACTORS)
    assert all(name == spec.name and spec.direction == "min" for name, spec in METRICS.items())
    assert {"fid", "cmmd", "cmmd_unbiased", "dino_mmd", "dino_mmd_unbiased"} <= METRICS.keys()
    assert {f"{d}" for e in ("lite0", "opennsfw", "vgg") for d in (f"mmd_{e}", f"frechet_{e}_pc32")} <= METRICS.keys()


def test_only_inception_is_called_fid() -> None:
    assert [name for name in METRICS if "fid" in name] == ["fid"]
    assert (METRICS["fid"].extractor, METRICS["fid"].distance) == ("inception_v3_fid", "frechet")


@pytest.mark.parametrize("name", ["cmmd", "dino_mmd"])
def test_published_mmds_have_their_published_parameters(name: str) -> None:
    spec = METRICS[name]
    assert (spec.sigma, spec.scale, spec.unbiased, spec.l2_normalise) == (10.0, 1000, False, True)
    assert METRICS[f"{name}_unbiased"].unbiased


def test_unknown_metric_names_the_nearest_and_all() -> None:
    with pytest.raises(ValueError, match=r"unknown metric 'mmd_lite'; did you mean 'mmd_lite0'\? known: .*fid"):
        metric_spec("mmd_lite")
    with pytest.raises(ValueError, match=r"unknown metric 'zzz'; known:"):
        metric_spec("zzz")


def test_metrics_are_checked_together() -> None:
    check_metrics(["fid", "cmmd"])
    with pytest.raises(ValueError, match="no metrics"):
        check_metrics([])
    with pytest.raises(ValueError, match="twice: fid"):
        check_metrics(["fid", "cmmd", "fid"])
    with pytest.raises(ValueError, match="did you mean 'cmmd'"):
        check_metrics(["fid", "cmdm"])


def test_network_of_a_metric_is_the_teachers_name() -> None:
    assert network_of("mmd_lite0") == network_of("frechet_lite0_pc32") == "efficientnet_lite0"
    assert network_of("dino_mmd") == "dinov2_vitl14_reg"
    assert network_of("mmd_opennsfw") == "open_nsfw_resnet50"
    with pytest.raises(ValueError, match="unknown metric"):
        network_of("mmd")


def test_impossible_specs_are_refused() -> None:
    common: dict[str, Any] = {"name": "x", "extractor": "vgg16_hed_pool", "description": "x"}
    with pytest.raises(ValueError, match="only an mmd has one"):
        MetricSpec(distance="mmd", **common)
    with pytest.raises(ValueError, match="only an mmd has one"):
        MetricSpec(distance="frechet", sigma=1.0, **common)
    with pytest.raises(ValueError, match="principal directions"):
        MetricSpec(distance="mmd", sigma=1.0, principal_directions=3, **common)


def test_too_few_samples_are_found_before_anything_is_computed() -> None:
    METRICS["fid"].check_num_samples(2049, 2048, "generated")
    METRICS["frechet_vgg_pc32"].check_num_samples(33, 512, "generated")
    with pytest.raises(ValueError, match=r"2048 generated samples .* 2048 dimensions"):
        METRICS["fid"].check_num_samples(2048, 2048, "generated")
    with pytest.raises(ValueError, match=r"32 reference samples .* 32 dimensions"):
        METRICS["frechet_vgg_pc32"].check_num_samples(32, 512, "reference")
    with pytest.raises(ValueError, match="2 or more"):
        METRICS["mmd_vgg"].check_num_samples(1, 512, "generated")
