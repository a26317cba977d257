"""The page as a browser shows it: nothing to complain of, every picture whole, every section there, on any screen."""

from __future__ import annotations

import asyncio
import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sweeps.ledger import FAILED, STOPPED
from sweeps.prompts import keep_prompts
from tests.browser import Tab, chromium, opened
from tests.sweeps.lab import Lab
from tests.sweeps.test_report import SECTIONS

pytestmark = pytest.mark.skipif(chromium() is None, reason="no Chromium is installed here")

BROKEN_IMAGES = """
(async () => {
  document.querySelectorAll("details").forEach(one => one.open = true);
  const images = [...document.images];
  images.forEach(one => one.loading = "eager");
  const broken = [];
  for (const one of images) await one.decode().catch(() => broken.push(one.alt));
  return [images.length, broken.concat(images.filter(one => !one.naturalWidth).map(one => one.alt))];
})()
"""
SEEN = """
[...document.querySelectorAll("header, section")].filter(one => one.offsetHeight > 30).map(one => one.id)
"""
FIGURES = '[...document.querySelectorAll("svg.figure")].filter(one => one.getBoundingClientRect().width > 100).length'
TOO_WIDE = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
DANGLING = """
[...document.querySelectorAll("use")].filter(one => !document.querySelector(one.getAttribute("href"))).length
"""


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    lab = Lab(tmp_path / "results", candidates=3, confirm=1)
    lab.baselines(1.0, 1.03)
    lab.trial("candidate-000", 0.9)
    lab.trial("candidate-001", 1.2, until=120, outcome=STOPPED, reason="5 spreads worse")
    lab.trial("candidate-002", 1.0, until=80, outcome=FAILED, reason="diverged")
    lab.confirmations("candidate-000", 0.91)
    for trial in lab.summary().trials:
        lab.grids(trial.name)
    keep_prompts(lab.paths, lambda: [f"a fox that jumps over {number} dogs" for number in range(16)])
    return lab


async def shown_on(tab: Tab, width: int, scheme: str) -> np.ndarray:
    """The first screen, in pixels; the page must not be wider than it."""
    await tab.ask(
        "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width < 500
    )
    await tab.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    assert await tab.value(TOO_WIDE) is False, width
    assert await tab.value(SEEN) == list(SECTIONS)
    picture = await tab.ask("Page.captureScreenshot")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(picture["result"]["data"]))).convert("L"))


def test_a_browser_shows_all_of_the_page_on_every_screen(lab: Lab, tmp_path: Path) -> None:
    lab.page()

    async def look() -> None:
        async with opened(lab.paths.page.as_uri(), tmp_path / "profile") as tab:
            light = await shown_on(tab, 1200, "light")
            dark = await shown_on(tab, 1200, "dark")
            phone = await shown_on(tab, 390, "light")
            assert np.median(light) > 200
            assert np.median(dark) < 60
            assert phone.shape[1] == 390
            assert min(light.std(), dark.std(), phone.std()) > 5, "a blank page"
            assert await tab.value(FIGURES) == 7, "one of each pair, and the other metric's"
            assert await tab.value(DANGLING) == 0
            assert await tab.value(BROKEN_IMAGES) == [2 + 6, []]
            assert tab.complaints == []
            await would_complain(tab, lab)

    asyncio.run(look())


async def would_complain(tab: Tab, lab: Lab) -> None:
    """Of a script, which the page's own policy forbids, and of a picture that is none."""
    broken = '<script>let</script><img alt="torn" src="data:image/png;base64,iVBORw0KGgo=">'
    lab.paths.page.write_text(lab.paths.page.read_text().replace("</main>", f"{broken}</main>"))
    await tab.open(lab.paths.page.as_uri())
    assert (await tab.value(BROKEN_IMAGES))[1][0] == "torn"
    assert any("Content Security Policy" in complaint for complaint in tab.complaints)
