"""The report's page in a browser: readable on a wide and on a narrow screen, tables that sort. Needs Chromium."""

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hdfast.report import build
from hdfast.report.collect import collect
from hdfast.report.summary import summarize
from scripted_sweep import write_run, write_sweep

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
HEIGHT = 4000

# What is measured: text of drawings as it appears, in pixels; whatever sticks out on the right.
MEASURE = """(page, view) => ({
  wide: page.documentElement.scrollWidth,
  out: [...page.querySelectorAll("h1, h2, p, li, figure, figcaption, .card, .tile, .legend span, svg")]
    .filter(e => e.getBoundingClientRect().right > view.innerWidth + 1).map(e => e.outerHTML.slice(0, 80)),
  svgs: [...page.querySelectorAll("svg")].map(e => e.getBoundingClientRect()).map(r => [r.width, r.height]),
  clipped: [...page.querySelectorAll("svg text")].filter(t => {
    const box = t.ownerSVGElement.getBoundingClientRect(), at = t.getBoundingClientRect();
    return at.right > box.right + 1 || at.left < box.left - 1 || at.bottom > box.bottom + 1;
  }).map(t => t.textContent),
  small: Math.min(...[...page.querySelectorAll("svg text")].map(
    t => parseFloat(view.getComputedStyle(t).fontSize) * Math.hypot(t.getScreenCTM().a, t.getScreenCTM().b))),
})"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """A report with two methods, one of them with a long name, and an unfinished run."""
    folder = tmp_path_factory.mktemp("page")
    write_sweep(folder / "a", games=4, seeds=2)
    write_sweep(folder / "b", games=4, seeds=1, **{"harmony.mode": "plain", "model.bins": 127, "behavior.lam": 0.9})
    write_run(folder / "c", "kung_fu_master", 0, share=0.4, finished=False)
    runs, notes = collect([folder])
    return build.write(summarize(runs, notes=notes, samples=200), folder / "out")


def browse(page: Path, width: int, script: str, *flags: str) -> dict:
    """What a script (page, view) -> object finds on the page in a window `width` pixels wide."""
    frame = page.with_name(f"frame{width}.html")
    frame.write_text(f"""<body style="margin:0"><pre id="found"></pre><iframe id="frame" srcdoc="{html.escape(
        page.read_text())}" style="border:0;width:{width}px;height:{HEIGHT}px"></iframe><script>
        onload = () => {{ found.textContent = JSON.stringify(({script})(frame.contentDocument, frame.contentWindow));
        found.style.display = "none" }}</script></body>""")
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
               f"--user-data-dir={page.parent / 'profile'}", f"--window-size={max(width, 600)},{HEIGHT}", *flags]
    text = subprocess.run([*command, "--dump-dom", frame.as_uri()], capture_output=True, text=True, timeout=120,
                          check=True).stdout
    return json.loads(html.unescape(re.search(r'<pre id="found"[^>]*>(.*?)</pre>', text, re.DOTALL)[1]))


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_is_readable(page, width):
    found = browse(page, width, MEASURE)
    assert found["wide"] == width and found["out"] == [] and found["clipped"] == []
    assert len(found["svgs"]) == 10 + 5 + 4 and all(w > 200 and h > 60 for w, h in found["svgs"])
    assert found["small"] > 7, "pixels of the smallest letters in a drawing"


@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_is_painted(page, width):
    """Pictures of the page: text and drawings on a light ground, and the other way round in dark mode."""
    browse(page, width, "() => ({})")
    ground = {}
    for mode, flags in (("light", ()), ("dark", ("--force-dark-mode", "--blink-settings=preferredColorScheme=0"))):
        path = page.with_name(f"{mode}{width}.png")
        subprocess.run([CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", *flags,
                        f"--user-data-dir={page.parent / 'profile'}", f"--window-size={max(width, 600)},{HEIGHT}",
                        f"--screenshot={path}", page.with_name(f"frame{width}.html").as_uri()],
                       capture_output=True, timeout=120, check=True)
        image = np.asarray(Image.open(path).convert("RGB"))[:2000, :width]
        ground[mode] = np.median(image)
        lightness = image.mean(-1)
        assert 0.03 < (abs(lightness - ground[mode]) > 60).mean() < 0.3, "share of the page that is ink"
        colored = (image.max(-1).astype(int) - image.min(-1) > 80).mean()
        assert colored > 0.001, "share of the page that is colored lines"
    assert ground["light"] > 230 and ground["dark"] < 60


def test_tables_sort_by_number_and_back(page):
    script = """(page, view) => {
      const table = [...page.querySelectorAll("table.sortable")].find(t => t.innerText.includes("Human")),
            head = table.tHead.rows[0].cells[2], body = table.tBodies[0];
      const click = () => {
        head.querySelector("button").click();
        return [head.ariaSort, [...body.rows].map(row => row.cells[2].innerText)];
      };
      return [click(), click()];
    }"""
    (first, falling), (second, rising) = browse(page, 1280, script)
    values = [float(text.replace(",", "")) for text in falling]
    assert (first, second) == ("descending", "ascending") and len(values) == 5
    assert values == sorted(values, reverse=True) and rising == falling[::-1]
