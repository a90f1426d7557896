"""A page in headless Chromium as a person would use it: keys, sizes, light and dark, what it asks.

The browser is spoken to through a pipe (the DevTools protocol): messages are JSON, a zero byte ends
each.
"""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--remote-debugging-pipe"),
)


class Browser:
    """One tab. `asked` has every address that it asked for, `complaints` what went wrong."""

    def __init__(self, to: int, answers: int) -> None:
        self._to, self._from, self._rest, self._number = to, answers, b"", 0
        self.asked: list[str] = []
        self.complaints: list[str] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The answer to a command of the tab."""
        return self._call(method, self._session, **parameters)

    def show(self, path: Path, *, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Open a file, at a size of the window and in light or dark; wait until it is there."""
        sizes = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **sizes)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.resolve().as_uri())
        while self.run("document.readyState") != "complete":
            pass

    def run(self, script: str) -> Any:
        """The value of an expression of JavaScript, awaited."""
        answer = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, key: str) -> None:
        """A key, down and up."""
        code = {"Tab": 9, "Enter": 13}[key]
        what = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        text = {"text": "\r"} if key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", **what, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", **what)

    def picture(self, file: Path, *, whole: bool = False) -> None:
        """The window, or the whole page, as a PNG file."""
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(answer["data"]))

    def _call(self, method: str, session: str = "", **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        message |= {"sessionId": session} if session else {}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self._note(answer)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            more = os.read(self._from, 2**20)
            assert more, "the browser has gone"
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        parsed: dict[str, Any] = json.loads(message)
        return parsed

    def _note(self, event: dict[str, Any]) -> None:
        method, told = event["method"], event["params"]
        if method == "Network.requestWillBeSent":
            self.asked.append(told["request"]["url"])
        if method in ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            self.complaints.append(json.dumps(told))


@contextmanager
def browser(user: Path) -> Iterator[Browser]:
    """Chromium with a new user's folder, ended when it is no longer wanted."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    assert program, "no Chromium on the PATH"
    theirs, ours = os.pipe(), os.pipe()  # what it reads, what it writes
    command = 'exec "$@" 3<&$FROM_US 4>&$TO_US'
    process = subprocess.Popen(
        ["/bin/bash", "-c", command, "bash", program, *_FLAGS, f"--user-data-dir={user}"],
        env={**os.environ, "FROM_US": str(theirs[0]), "TO_US": str(ours[1])},
        pass_fds=(theirs[0], ours[1]),
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs[0])
    os.close(ours[1])
    try:
        yield Browser(theirs[1], ours[0])
    finally:
        process.kill()
        process.wait()
        os.close(theirs[1])
        os.close(ours[0])
