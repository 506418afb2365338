"""Headless Chromium, driven over WebDriver (W3C, "WebDriver", level 2) by plain HTTP requests.

chromedriver is part of Debian's packages chromium and chromium-driver; a client library would be
one more dependency for a dozen commands.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.waiting import TEST_TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Sequence

ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
"""The key of an element's reference (WebDriver, section 12)."""

FLAGS = (
    "--headless", "--no-first-run", "--disable-gpu", "--disable-quic",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--hide-scrollbars", "--force-color-profile=srgb",
)  # fmt: skip

TAB = "\ue004"
ENTER = "\ue007"


def missing() -> str:
    """Return why no browser can be started; "" if one can."""
    for program in ("chromium", "chromedriver"):
        if shutil.which(program) is None:
            return f"no {program}: on Debian, apt-get install chromium chromium-driver"
    return ""


class Browser:
    """One browser with one window, until it is left."""

    def __init__(self) -> None:
        self._undo = contextlib.ExitStack()
        self._session = ""

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            folder = undo.enter_context(
                tempfile.TemporaryDirectory(prefix="page-", ignore_cleanup_errors=True)
            )
            log = Path(folder) / "chromedriver.log"
            with log.open("wb") as output:
                driver = subprocess.Popen(
                    ["chromedriver", "--port=0"],
                    stdout=subprocess.PIPE,
                    stderr=output,
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, "HOME": folder, "TMPDIR": folder},
                )
            undo.callback(_end, driver)
            assert driver.stdout
            undo.callback(driver.stdout.close)
            self._port = _port(driver)
            flags = [*FLAGS, f"--user-data-dir={folder}/profile"]
            if os.geteuid() == 0:
                flags.append("--no-sandbox")  # Chromium's sandbox does not start as root.
            options = {"args": flags, "binary": shutil.which("chromium")}
            capabilities = {
                "alwaysMatch": {
                    "goog:chromeOptions": options,
                    "goog:loggingPrefs": {"browser": "ALL"},
                }
            }
            made = self._send("POST", "/session", {"capabilities": capabilities})
            self._session = f"/session/{made['sessionId']}"
            undo.callback(lambda: self._send("DELETE", self._session))
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def look(
        self, url: str, *, width: int = 1280, height: int = 900, dark: bool = False,
        scripts: bool = True,
    ) -> None:  # fmt: skip
        """Open a page, as on a screen of that size and in that colour scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.devtools("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.devtools("Emulation.setEmulatedMedia", features=[scheme])
        self.devtools("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.command("POST", "/url", url=url)

    def devtools(self, command: str, **parameters: Any) -> Any:
        """Give a command of Chromium's DevTools protocol."""
        return self.command("POST", "/goog/cdp/execute", cmd=command, params=parameters)

    def run(self, script: str, *arguments: Any) -> Any:
        """Return what a script in the page returns."""
        return self.command("POST", "/execute/sync", script=script, args=list(arguments))

    def find(self, selector: str) -> list[str]:
        """Return all elements of a CSS selector."""
        found = self.command("POST", "/elements", using="css selector", value=selector)
        return [each[ELEMENT] for each in found]

    def role(self, element: str) -> str:
        """Return an element's role, as a screen reader gets it."""
        return str(self.command("GET", f"/element/{element}/computedrole"))

    def label(self, element: str) -> str:
        """Return an element's name, as a screen reader gets it."""
        return str(self.command("GET", f"/element/{element}/computedlabel"))

    def press(self, keys: Sequence[str]) -> None:
        """Press and release keys, one after the other."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        sequence = {"type": "key", "id": "keyboard", "actions": actions}
        self.command("POST", "/actions", actions=[sequence])

    def screenshot(self, *, whole: bool = True) -> bytes:
        """Return a PNG of the page."""
        shown = self.devtools("Page.captureScreenshot", captureBeyondViewport=whole)
        return base64.b64decode(shown["data"])

    def command(self, method: str, path: str, **parameters: Any) -> Any:
        """Give a command within the session."""
        return self._send(method, self._session + path, parameters)

    def _send(self, method: str, path: str, parameters: Any = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=TEST_TIMEOUT)
        with contextlib.closing(connection) as client:
            body = None if method in ("GET", "DELETE") else json.dumps(parameters)
            client.request(method, path, body, {"Content-Type": "application/json"})
            value = json.loads(client.getresponse().read())["value"]
        if isinstance(value, dict) and "error" in value:
            raise AssertionError(f"{method} {path}: {value['error']}: {value['message']}")
        return value


def _port(driver: subprocess.Popen[bytes]) -> int:
    """Return the port that chromedriver says it listens on."""
    assert driver.stdout
    for line in driver.stdout:
        if found := re.search(rb"started successfully on port (\d+)", line):
            return int(found[1])
    raise AssertionError("chromedriver did not start")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(TEST_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
