"""The page in Chromium, if installed: no messages on the console, sortable tables, values of points."""

import json
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest
from changed_results import changed

from masksearch.analysis import group_cells
from masksearch.experiment.cell_results import EarlyBirdResult
from masksearch.report.figures.drawing import _luminance, dark, themed
from masksearch.report.figures.early_bird_heatmaps import early_bird_drawings
from masksearch.report.figures.hover_texts import with_titles

CHROMIUM = shutil.which("chromium")
PROBE = """
<script>
{
const table = document.querySelector("table.sorts");
const button = [...table.tHead.querySelectorAll("button")].find((b) => b.textContent === "trained %");
const place = button.parentElement.cellIndex;
const column = () => [...table.tBodies[0].rows].map((row) => parseFloat(row.cells[place].textContent));
const before = column();
button.click();
const up = column();
button.click();
const down = column();
const point = document.querySelector("figure use title").parentElement;
const title = point.querySelector("title").textContent;
point.dispatchEvent(new PointerEvent("pointerover", { bubbles: true, clientX: 50, clientY: 200 }));
const note = document.querySelector(".note");
const said = note.textContent;
const at = (box, right, down) => {
  const { left, top, width, height } = box.getBoundingClientRect();
  const place = { clientX: left + right * width, clientY: top + down * height };
  box.dispatchEvent(new PointerEvent("pointermove", { bubbles: true, ...place }));
  return note.textContent;
};
const areas = [...document.querySelectorAll("figure [data-cells]")].map((box) => [
  JSON.parse(box.dataset.cells), at(box, 0.01, 0.01), at(box, 0.99, 0.99), box.tagName,
]);
const wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
const seen = { before, up, down, title, note: said, areas, hidden: note.hidden, wide };
document.body.dataset.seen = JSON.stringify(seen);
}
</script>
"""


def opened(path, *flags):
    """The page's document after its scripts have run, and what the browser logged."""
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"),
            *(f"--user-data-dir={path.parent / 'browser'}", "--virtual-time-budget=3000", *flags, f"file://{path}"),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
@pytest.mark.parametrize("flags", [(), ("--blink-settings=preferredColorScheme=0",)], ids=["light", "dark"])
def test_page_works_in_a_browser(finished, tmp_path, flags):
    path = tmp_path / "page.html"
    path.write_text(finished[1].read_text().replace("</body>", PROBE + "</body>"))
    document, complaints = opened(path, "--window-size=500,900", *flags)
    assert complaints == []
    seen = json.loads(unescape(document.partition('data-seen="')[2].partition('"')[0]))
    assert sorted(seen["before"]) == seen["up"] == seen["down"][::-1]
    assert seen["before"] != seen["up"]
    assert seen["note"] == seen["title"] != ""
    assert not seen["hidden"]
    assert len(seen["areas"]) == 9  # histograms of three layers for three methods
    for cells, first, last, _ in seen["areas"]:
        assert first == f"{cells['rows'][0]} {cells['columns'][0]}: {cells['values'][0][0]}"
        assert last == f"{cells['rows'][-1]} {cells['columns'][-1]}: {cells['values'][-1][-1]}"
    assert not seen["wide"]  # figures and tables scroll by themselves


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium")
def test_heat_map_shows_cell_values_in_a_browser(finished, tmp_path):
    distances = [[0.0, 0.1, 0.2], [0.1, 0.0, 0.05], [0.2, 0.05, 0.0]]
    seen = EarlyBirdResult(0.1, False, 2, {"absolute": 2, "relative": None}, distances)
    [drawing] = early_bird_drawings(group_cells([changed(finished[0].cells[0], early_bird=seen)]))
    text = finished[1].read_text()
    before, after = text.split("<figure>", 1)
    path = tmp_path / "page.html"
    path.write_text(f"{before}<figure>{drawing.svg()}</figure><figure>{after}".replace("</body>", PROBE + "</body>"))
    document, complaints = opened(path)
    assert complaints == []
    [cells, first, last, tag] = json.loads(unescape(document.partition('data-seen="')[2].partition('"')[0]))["areas"][0]
    assert tag == "image"
    assert (first, last) == ("epochs 3 and 1: 20 %", "epochs 1 and 3: 20 %")
    assert len(cells["values"]) == 3


def test_points_have_titles_with_the_values_of_their_rows(finished):
    text = Path(finished[1]).read_text()
    assert "<title>snip, 90 %: " in text
    assert "<title>annealing, fc1: " in text
    assert "<title>best after scoring 14: " in text
    assert "<title>current after scoring 14: " in text
    assert "<title>distance to the start after scoring " in text
    assert "tell:" not in text


def test_line_with_missing_points_gets_no_titles():
    use = '    <use x="1" style=""/>\n'
    group = '   <g id="tell:a&lt;\x1fb">\n{}   </g>\n'
    assert with_titles(group.format(2 * use)).count("<title>") == 2
    assert "<title>a&lt;</title></use>" in with_titles(group.format(2 * use))
    assert "<title>" not in with_titles(group.format(3 * use))


def test_dark_colours_have_enough_contrast():
    assert dark("#ffffff") < "#222222" < "#d0d0d0" < dark("#000000")
    for colour in ("#0072b2", "#440154", "#1b7837", "#cc79a7"):
        red, green, blue = (int(dark(colour)[place : place + 2], 16) / 255 for place in (1, 3, 5))
        assert (_luminance(red, green, blue) + 0.05) / 0.06 >= 4.4
    assert themed('style="fill: #000000; font-family: a, b; x: 1"') == (
        f'style="fill: light-dark(#000000, {dark("#000000")}); x: 1"'
    )
