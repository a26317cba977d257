"""What the agents of a running Ray expose to Prometheus."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator

from prometheus_client.parser import text_string_to_metric_families


def exposed(output: str) -> Iterator[tuple[str, dict[str, str], float]]:
    """Name, labels and value of every series of a sweep, by the Ray whose dashboard's address is in its `output`."""
    for dashboard in re.findall(r"Dashboard  (http://\S+)", output)[-1:]:
        try:
            (found,) = json.loads(_read(f"{dashboard}/api/prometheus/sd"))
            for target in found["targets"]:
                for family in text_string_to_metric_families(_read(f"http://{target}/metrics")):
                    if family.name.startswith("ray_sweep_"):
                        yield from ((sample.name, sample.labels, sample.value) for sample in family.samples)
        except (OSError, ValueError):  # not up yet, or gone
            return


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return answer.read().decode()
