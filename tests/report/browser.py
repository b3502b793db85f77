"""A headless Chromium, driven by its own protocol over a pipe: no server, no port, no package.

https://chromedevtools.github.io/devtools-protocol: JSON objects ended by a zero byte, read by the browser from file
descriptor 3 and written by it to 4.
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
TIMEOUT = 90.0


def find_chromium() -> str | None:
    """The browser's program, if there is one."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """One browser with one tab, and what it says: errors, messages of the console, and what it loads."""

    def __init__(self, program: str, profile: Path) -> None:
        (self._in, out), (inward, self._out) = _pipe(), _pipe()
        flags = [
            "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars", "--disable-sync",
            "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe",
            f"--user-data-dir={profile}", "about:blank",
        ]  # fmt: skip
        command = f'exec "$0" "$@" 3<&{inward} 4>&{out}'
        self._process = subprocess.Popen(
            ["bash", "-c", command, program, *flags],
            pass_fds=(inward, out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(inward)
        os.close(out)
        self._buffer, self._last, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        tabs = self("Target.getTargets")["targetInfos"]
        tab = next(target["targetId"] for target in tabs if target["type"] == "page")
        self._session = self("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; events that come meanwhile are kept."""
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + TIMEOUT
        while (answer := self._receive(until)).get("id") != self._last:
            self.events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _receive(self, until: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, until - time.monotonic()))
            chunk = os.read(self._in, 1 << 16) if ready else b""
            assert chunk, "chromium says nothing any more"
            self._buffer += chunk
        first, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(first)

    def open(self, page: Path, width: int, height: int = 900, scheme: str = "light") -> None:
        """Show a page at a width in CSS pixels, and wait until it is loaded."""
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.events.clear()
        self("Page.navigate", url=page.as_uri())
        until = time.monotonic() + TIMEOUT
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive(until))

    def complaints(self) -> list[str]:
        """What the console got since the page was opened, and every request but that for the page itself."""
        found = []
        for event in self.events:
            method, about = event["method"], event["params"]
            if method == "Runtime.consoleAPICalled":
                found.append(f"console: {about['args']}")
            elif method == "Runtime.exceptionThrown":
                found.append(f"exception: {about['exceptionDetails']['text']}")
            elif method == "Log.entryAdded":
                found.append(f"log: {about['entry']['text']}")
            elif method == "Network.requestWillBeSent" and about.get("type") != "Document":
                found.append(f"request: {about['request']['url']}")
        return found

    def ask(self, expression: str) -> Any:
        """The value of an expression in JavaScript; a page that forbids scripts does not forbid this."""
        answer = self("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def shot(self, path: Path) -> None:
        """A picture of the whole page."""
        size = self("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        data = self("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        """End the browser."""
        try:
            self._session = ""
            self("Browser.close")
        finally:
            os.close(self._in)
            os.close(self._out)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


def _pipe() -> tuple[int, int]:
    """Both ends of a pipe, above the numbers that the browser reads and writes at."""
    low = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low)
    for end in low:
        os.close(end)
    return high[0], high[1]
