"""The shipped Grafana dashboard, as what it asks Prometheus."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent.parent / "docs" / "dashboard" / "grafana"


def dashboard() -> dict[str, Any]:
    return json.loads((FOLDER / "dashboards" / "sweeps.json").read_text())


def expressions() -> list[str]:
    """Of all panels, with Grafana's variables as they are written."""
    return [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]


def questions() -> list[str]:
    """The same with all sweeps and metrics chosen, as Prometheus gets them."""
    return [expression.replace("$sweep", ".*").replace("$metric", ".*") for expression in expressions()]
