"""How long does a slider take in the page? From the move to the new sentence and picture, as the browser measures it.

    python benchmarks/browser.py [--moves 60] [--table runs/quickstart/table.csv]

Prints median and 95th percentile of the explorer (ipywidgets, in JupyterLab and as the Voilà page) and of the report's slider
(no Python). Needs Chromium and the extra `test`. Target of the explorer: under 100 ms.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

from claw import laws, records
from claw.laws import simulate
from claw.laws.simulate import Design
from claw.show import report

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import pages  # noqa: E402

TABLE = "runs/made/table.csv"
WATCH = """([words, picture]) => {
  const watching = window.watching = { moved: 0, words: 0, picture: 0 };
  const options = { childList: true, characterData: true, subtree: true, attributes: true };
  const note = (what) => () => { watching[what] = performance.now(); };
  new MutationObserver(note('words')).observe(words, options);
  if (picture.tagName === 'IMG') picture.addEventListener('load', note('picture'));
  else new MutationObserver(note('picture')).observe(picture, options);
  const begin = () => { Object.assign(watching, { moved: performance.now(), words: 0, picture: 0 }); };
  for (const event of ['keydown', 'input']) document.addEventListener(event, begin, true);
}"""
TOOK = """() => { const { moved, words, picture } = window.watching;
  return words && picture ? Math.max(words, picture) - moved : null; }"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--moves", type=int, default=60)
    parser.add_argument("--table", type=Path, help="a tidy table; without it one made from known laws")
    chosen = parser.parse_args()
    table = records.table(chosen.table) if chosen.table else made()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch, pages.browser() as browser:
        folder = pages.project(Path(scratch))
        (folder / TABLE).parent.mkdir(parents=True)
        records.save_csv(table, folder / TABLE)
        with pages.served("lab", folder) as (address, token):
            page = pages.page(browser)
            pages.open_notebook(page, address, token, "51_explorer")
            pages.run_all(page, 400)
            tell("explorer in JupyterLab", widgets(page, chosen.moves))
        with pages.served("voila", folder, str(folder / "notebooks" / "51_explorer.ipynb")) as (address, _):
            page = pages.page(browser)
            page.goto(address, timeout=180_000)
            tell("explorer as a Voilà page", widgets(page, chosen.moves))
        path = report.write_report(folder / "report.html", "made", laws.fit(table, draws=100, compare=False), table)
        page = pages.page(browser)
        page.goto(path.as_uri())
        page.evaluate(WATCH, [page.locator(".sentence").element_handle(), page.locator(".claw-slider svg").element_handle()])
        tell("report from disk", moves(page, page.locator("input.ratio"), chosen.moves))


def made():
    """A study of three models and two methods with loss, accuracy and speed."""
    design = Design(models=3, methods=("magnitude", "wanda-sp"), ratios=(0.1, 0.3, 0.5, 0.7, 0.9), tokens=(0, 1e6))
    table = simulate.simulated_table(design, simulate.TRUTHS)
    return table.assign(speedup_decode=(1 - table["ratio_params"]) ** -0.8)


def widgets(page, count: int) -> list[float]:
    """Milliseconds of each move of the explorer's slider."""
    words = page.locator(".widget-html-content", has_text="Removing").first
    words.wait_for(timeout=180_000)
    page.evaluate(WATCH, [words.element_handle(), page.locator("img.widget-image").first.element_handle()])
    return moves(page, page.locator(".widget-slider .noUi-handle").first, count)


def moves(page, handle, count: int) -> list[float]:
    """Milliseconds from each press of an arrow key until words and picture have changed; the first three warm up."""
    handle.focus()
    taken = []
    for number in range(count + 3):
        page.keyboard.press("ArrowRight" if (number // 20) % 2 == 0 else "ArrowLeft")
        took = None
        while took is None:
            page.wait_for_timeout(5)
            took = page.evaluate(TOOK)
        taken.append(took)
    return taken[3:]


def tell(name: str, milliseconds: list[float]) -> None:
    """One line: median and 95th percentile."""
    median, high = np.percentile(milliseconds, [50, 95])
    print(f"{name:26} {len(milliseconds)} moves: median {median:.0f} ms, 95th percentile {high:.0f} ms", flush=True)


if __name__ == "__main__":
    main()
