"""The shipped settings of Prometheus and Grafana fit what the code exports, and open nothing to the world."""

from __future__ import annotations

import re
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeps.gauges import COUNTERS, GAUGES
from tests.dashboard.grafana import FOLDER, dashboard, expressions

EXPORTED = {f"ray_{name}": it.labels for name, it in GAUGES.items()}
EXPORTED |= {f"ray_{name}_total": it.labels for name, it in COUNTERS.items()}
SETTINGS = sorted(path for path in FOLDER.parent.rglob("*") if path.is_file())


def _variables() -> dict[str, dict[str, Any]]:
    return {it["name"]: it for it in dashboard()["templating"]["list"]}


def _queries() -> list[str]:
    """Everything that is asked of Prometheus: by panels and by the lists of choices."""
    choices = [it["query"]["query"] for it in _variables().values() if it["type"] == "query"]
    return [*expressions(), *choices]


def test_the_dashboard_asks_for_all_that_is_exported_and_for_nothing_else() -> None:
    asked = {name for query in _queries() for name in re.findall(r"\bray_\w+", query)}
    assert asked == EXPORTED.keys()


def test_the_dashboard_uses_labels_that_its_series_have() -> None:
    for panel in dashboard()["panels"]:
        for target in panel["targets"]:
            (name,) = re.findall(r"\bray_\w+", target["expr"])
            used = re.findall(r"(\w+)=~", target["expr"]) + re.findall(r"{{(\w+)}}", target["legendFormat"])
            assert set(used) <= {"sweep", *EXPORTED[name]}, target
            assert "sweep" in used, f"{panel['title']} mixes sweeps"


def test_the_dashboard_uses_variables_that_it_defines() -> None:
    used = set(re.findall(r"\$\{?(\w+)", str(dashboard()["panels"]) + str(_queries())))
    assert used == _variables().keys()


def test_panels_have_a_place_of_their_own() -> None:
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    for one, other in combinations([panel["gridPos"] for panel in panels], 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        below = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or below, (one, other)


@pytest.mark.parametrize("file", SETTINGS, ids=lambda path: path.name)
def test_settings_name_loopback_only(file: Path) -> None:
    hosts = re.findall(r"https?://([^/:\s]+)|http_addr = (\S+)", file.read_text())
    assert {host for pair in hosts for host in pair if host} <= {"127.0.0.1"}


def test_settings_lead_to_each_other() -> None:
    source = yaml.safe_load((FOLDER / "provisioning" / "datasources" / "prometheus.yml").read_text())
    assert source["datasources"][0]["type"] == _variables()["datasource"]["query"] == "prometheus"
    providers = yaml.safe_load((FOLDER / "provisioning" / "dashboards" / "sweeps.yml").read_text())["providers"]
    root = str(FOLDER.parents[2])
    assert providers[0]["options"]["path"].replace("$PRX_SWEEPS", root) == str(FOLDER / "dashboards")
    ini = (FOLDER / "grafana.ini").read_text()
    assert f"provisioning = {FOLDER / 'provisioning'}" in ini.replace("$__env{PRX_SWEEPS}", root)
    assert "http_addr = 127.0.0.1" in ini


def test_prometheus_reads_what_ray_writes() -> None:
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    (job,) = yaml.safe_load((FOLDER.parent / "prometheus.yml").read_text())["scrape_configs"]
    (found,) = job["file_sd_configs"]
    assert [Path(file).name for file in found["files"]] == [PROMETHEUS_SERVICE_DISCOVERY_FILE]
    assert int(found["refresh_interval"].removesuffix("s")) <= 30, "a new sweep is a new Ray"
