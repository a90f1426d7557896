"""The report in a real browser: nothing is asked for, nothing runs, nothing is wider than a phone.

The page is served on this computer, so that anything that it asked for beyond itself would be seen
by the server; names that resolve elsewhere are blocked and would show as errors on the console.
"""

import json
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.support.html_page import Page
from tests.support.reports import HOSTILE, write

pytestmark = pytest.mark.browser

FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
    *("--hide-scrollbars", "--enable-logging=stderr", "--virtual-time-budget=5000"),
)

PROBE = """<!DOCTYPE html><html><head><title>waiting</title></head><body style="margin:0">
<iframe id="f" src="report.html" style="border:0" width="{width}" height="900"></iframe>
<script>
addEventListener("load", () => {{
  const d = document.getElementById("f").contentDocument, root = d.documentElement;
  const wide = [...d.querySelectorAll("section > *")].filter(
    e => e.getBoundingClientRect().right > {width}).length;
  const style = d.defaultView.getComputedStyle(d.body);
  const line = d.querySelector("svg.plot path[style*='--main']");
  document.title = JSON.stringify({{
    wide, scroll: root.scrollWidth, images: d.images.length,
    scripts: d.scripts.length, colours: [style.color, style.backgroundColor],
    stroke: d.defaultView.getComputedStyle(line).stroke,
    font: parseFloat(style.fontSize), heading: d.querySelector("h1").textContent,
  }});
}});
</script></body></html>"""


class _Served:
    """A folder served on this computer; remembers every path that was asked for."""

    def __init__(self, folder: Path) -> None:
        asked = self.asked = []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                file = folder / self.path.lstrip("/")
                found = file.parent == folder and file.is_file()
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.end_headers()
                self.wfile.write(file.read_bytes() if found else b"")

            def log_message(self, *words: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="module")
def served(tmp_path_factory) -> Iterator[_Served]:
    folder = tmp_path_factory.mktemp("run")
    write(folder)
    for width in (1280, 400):
        (folder / f"probe-{width}.html").write_text(PROBE.format(width=width))
    server = _Served(folder)
    yield server
    server.close()


def _chromium(tmp_path: Path, *arguments: str) -> tuple[str, str]:
    """Standard output and console of one visit with a new user's folder."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    assert program, "no Chromium on the PATH"
    done = subprocess.run(
        [program, *FLAGS, f"--user-data-dir={tmp_path / 'user'}", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return done.stdout, "\n".join(console)


def _probe(tmp_path: Path, served: _Served, width: int, *arguments: str) -> dict[str, object]:
    address = f"{served.address}/probe-{width}.html"
    dom, console = _chromium(tmp_path, "--dump-dom", "--window-size=1400,1000", *arguments, address)
    assert console == ""
    title = dom.split("<title>")[1].split("</title>")[0]
    return json.loads(title.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_fits_the_screen(width, served, tmp_path):
    seen = _probe(tmp_path, served, width)
    assert (seen["wide"], seen["scripts"]) == (0, 0)
    assert seen["images"] == 12 * 7 + 2
    assert seen["scroll"] <= width and seen["font"] >= 15
    assert seen["heading"] == HOSTILE[3]


def test_light_and_dark_differ_and_the_plots_follow(served, tmp_path):
    light = _probe(tmp_path / "a", served, 400, "--blink-settings=preferredColorScheme=1")
    dark = _probe(tmp_path / "b", served, 400, "--blink-settings=preferredColorScheme=0")
    assert light["colours"] == ["rgb(29, 33, 38)", "rgb(251, 250, 247)"]
    assert dark["colours"] == ["rgb(230, 228, 223)", "rgb(20, 23, 26)"]
    assert light["stroke"] == "rgb(31, 95, 168)" and dark["stroke"] == "rgb(121, 176, 240)"


def test_the_page_asks_for_nothing_and_runs_nothing(served, tmp_path):
    served.asked.clear()
    dom, console = _chromium(tmp_path, "--dump-dom", f"{served.address}/report.html")
    assert served.asked == ["/report.html"]
    assert console == ""
    page = Page(dom.partition("<!DOCTYPE html>")[2] or dom)
    assert page.all("script") == [] and page.all("iframe") == []
    assert not any(name.startswith("on") for e in page.elements for name in e.attributes)
