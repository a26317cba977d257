"""A headless Chromium that tests ask what it sees, over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE_S = 90.0  # of a busy machine


def chromium() -> str | None:
    """The browser's path; None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Tab:
    """One page. complaints: what the browser's console had to say, errors and warnings alike."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket, self.asked = socket, 0
        self.complaints: list[str] = []

    async def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.asked += 1
        await self.socket.send_json({"id": self.asked, "method": method, "params": parameters})
        return await self._heard(lambda told: told.get("id") == self.asked)

    async def open(self, url: str) -> None:
        for domain in ("Page", "Log", "Runtime"):
            await self.ask(f"{domain}.enable")
        await self.ask("Page.navigate", url=url)
        await self._heard(lambda told: told.get("method") == "Page.loadEventFired")

    async def value(self, expression: str) -> Any:
        """Of JavaScript, a promise's too. The page's own policy allows none; the protocol may."""
        told = await self.ask("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told["result"], told["result"]["exceptionDetails"]
        return told["result"]["result"].get("value")

    async def until(self, expression: str) -> None:
        """Wait for JavaScript to be true: what a page draws comes after its load."""
        async with asyncio.timeout(PATIENCE_S):
            while not await self.value(expression):
                await asyncio.sleep(0.2)

    async def picture(self) -> bytes:
        """The whole page as PNG."""
        told = await self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        return base64.b64decode(told["result"]["data"])

    async def _heard(self, wanted: Any) -> dict[str, Any]:
        while True:
            told = json.loads((await self.socket.receive(PATIENCE_S)).data)
            if told.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled"):
                self.complaints.append(json.dumps(told["params"]))
            if wanted(told):
                assert "error" not in told, told
                return told


@asynccontextmanager
async def opened(url: str, folder: Path) -> AsyncIterator[Tab]:
    """A tab with the page, loaded. folder: for the browser's profile, fresh."""
    browser = chromium()
    assert browser is not None
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += [f"--user-data-dir={folder}", "--remote-debugging-port=0", "about:blank"]
    process = subprocess.Popen([browser, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        async with aiohttp.ClientSession() as session:
            port = await _port(folder / "DevToolsActivePort")
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                pages = [target for target in await answer.json() if target["type"] == "page"]
            async with session.ws_connect(pages[0]["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                tab = Tab(socket)
                await tab.open(url)
                yield tab
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


async def _port(file: Path) -> int:
    """Which the browser writes down once it listens."""
    async with asyncio.timeout(PATIENCE_S):
        while not (file.is_file() and (lines := file.read_text().split())):
            await asyncio.sleep(0.05)
    return int(lines[0])
