"""The pages as people use them, in a real browser: notebooks run from JupyterLab's menu, sliders move, nothing turns red.

A screenshot of each page lies in the test's folder, which `pytest --basetemp=FOLDER` names.
"""

import re

import pages
import pytest

from claw import figures, laws, records
from claw.advice.unseen_models import predict_unseen
from claw.laws import simulate
from claw.laws.simulate import Design
from claw.show import report

pytest.importorskip("playwright", reason="playwright is not installed: pip install -e '.[test]'")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(pages.chromium() is None, reason="no Chromium on this machine: install the package chromium"),
]
TABLE = "runs/made/table.csv"
WAIT = 180_000  # milliseconds; a busy machine takes its time


@pytest.fixture(scope="module")
def table():
    """A study of three models and two methods, made from known laws."""
    design = Design(models=3, methods=("magnitude", "wanda-sp"), ratios=(0.1, 0.3, 0.5, 0.7, 0.9), tokens=(0, 1e6))
    made = simulate.simulated_table(design, simulate.TRUTHS)
    made["model"] = made["model"].replace({f"model-{number}": f"model-{letter}" for number, letter in enumerate("abc")})
    return made.assign(speedup_decode=(1 - made["ratio_params"]) ** -0.8)


@pytest.fixture(scope="module")
def browser():
    with pages.browser() as chromium:
        yield chromium


@pytest.fixture(scope="module")
def folder(tmp_path_factory, table):
    place = pages.project(tmp_path_factory.mktemp("project"))
    (place / TABLE).parent.mkdir(parents=True)
    records.save_csv(table, place / TABLE)
    (place / "results").mkdir()
    reference = table[(table["model"] == "model-a") & (table["recovery_tokens"] == 0)]
    records.save_csv(reference.assign(model="reference-model"), place / "results" / "reference.csv")
    return place


@pytest.fixture(scope="module")
def lab(folder):
    with pages.served("lab", folder) as (address, token):
        yield address, token


@pytest.fixture
def page(browser, request, tmp_path):
    """A page whose picture is taken at the end, and whose console must have had nothing to complain about."""
    opened = pages.page(browser, width=1100)
    yield opened
    picture = pages.whole(opened, tmp_path / f"{request.node.name}.png")
    assert picture.stat().st_size > 5_000
    assert opened.complaints == []
    opened.context.close()


LOOKS = [(width, scheme) for width in (1280, 390) for scheme in ("light", "dark")]
"""Windows of a desk and of a phone, by day and by night."""


@pytest.fixture
def window(browser, request, tmp_path):
    """Pages of a given width and colour scheme; a picture of each at the end, and nothing to complain about."""
    opened = []

    def open_page(width, scheme):
        page = pages.page(browser, height=900, width=width, color_scheme=scheme, has_touch=width < 700)
        opened.append((page, f"{request.node.originalname}-{width}-{scheme}"))
        return page

    yield open_page
    for page, name in opened:
        page.screenshot(path=tmp_path / f"{name}-first.png")
        pages.whole(page, tmp_path / f"{name}.png")
        assert page.complaints == []
        page.context.close()


def dark(page):
    """Whether the ground of a page is dark and its text light."""
    ground, ink = page.evaluate("[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]")
    light = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ground, ink)]
    return light[0] < 200 and light[1] > 500


def give(folder, name, **values):
    """Set parameters of a notebook copy, as a person edits the parameters cell."""
    path = folder / "notebooks" / f"{name}.ipynb"
    text = path.read_text()
    for key, value in values.items():
        text, count = re.subn(rf"({key}: \w+ = )[^#]*?(  #)", lambda parts, v=value: f"{parts[1]}{v}{parts[2]}", text)
        assert count == 1, key
    path.write_text(text)


def quoted(text):
    """A string as it stands in a notebook file."""
    return f'\\"{text}\\"'


def ran(page, lab, name, seconds=400):
    pages.open_notebook(page, *lab, name)
    pages.run_all(page, seconds)
    assert pages.errors(page) == []


def slide(page, handle, keys):
    """Move a slider with the keyboard."""
    handle.focus()
    for _ in range(keys):
        page.keyboard.press("ArrowRight")


def changed(page, locator, before, attribute=None):
    """Wait until what a locator shows is no longer `before`."""
    read = (lambda: locator.get_attribute(attribute)) if attribute else locator.inner_text
    for _ in range(WAIT // 100):
        if read() != before:
            return read()
        page.wait_for_timeout(100)
    raise AssertionError(f"still {before[:200]!r}")


def explored(page):
    """Slide the explorer of the page; its sentence and its picture follow."""
    words, image = page.locator(".widget-html-content", has_text="Removing").first, page.locator("img.widget-image").first
    words.wait_for(timeout=WAIT)
    said, drawn = words.inner_text(), image.get_attribute("src")
    handle = page.locator(".widget-slider .noUi-handle").first
    slide(page, handle, 20)
    said, drawn = changed(page, words, said), changed(page, image, drawn, "src")
    page.wait_for_timeout(1000)
    assert re.search(r"Removing 20\.0% of model-\w's parameters \(own ratio 0\.\d\d\)", words.inner_text())
    for label, choice in (("model", "model-c"), ("method", "wanda-sp"), ("interval", "all models: wild")):
        said = words.inner_text()
        menu = page.locator(".widget-dropdown", has=page.get_by_text(label, exact=True)).locator("select")
        option = menu.locator("option", has_text=choice).first.inner_text()
        menu.select_option(label=option)
        changed(page, words, said)
    assert "of model-c's parameters" in words.inner_text() and "with wanda-sp" in words.inner_text()
    return words.inner_text()


def asked(page, frame):
    """Ask how far one can go in a page or frame: more loss accepted reaches farther; nothing sticks out of the window."""
    slider, words = frame.locator(".claw-how-far input.allowed"), frame.locator(".claw-how-far .sentence").first
    words.wait_for(timeout=WAIT)
    said = words.inner_text()
    reach = lambda text: float(re.search(r"remove (?:about |at least )?([\d.]+) %", text)[1])
    assert reach(said) > 0
    mark = frame.locator(".claw-how-far svg .mark").first
    before = mark.get_attribute("cx")
    slider.fill("50")
    assert reach(changed(page, words, said)) > reach(said)
    assert float(mark.get_attribute("cx")) > float(before)
    slider.fill("10")
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    return said


def foretold(page, frame):
    """Ask of a model that nobody measured: the page says what `predict_unseen` says, and nothing sticks out of the window."""
    fold = frame.locator("details.unseen")
    fold.locator("summary").first.click()
    fold.locator("input.size").fill("13")
    for method, family, trained in (("flap", "", "0"), ("slicegpt", "Llama-2", "1")):
        fold.locator("select.method").select_option(method)
        fold.locator("select.family").select_option(family)
        fold.locator("select.trained").select_option(trained)
        said = fold.locator(".sentence").inner_text()
        row = predict_unseen(13e9, family=family, tokens=float(trained)).set_index("method").loc[method]
        numbers = re.search(r"about ([\d.]+) % of a 13 B model’s parameters can go .* between ([\d.]+) % and ([\d.]+) %", said)
        assert [float(number) for number in numbers.groups()] == pytest.approx(
            [100 * row[name] for name in ("share", "low", "high")], abs=0.6
        )
    assert "not measured" in fold.locator(".origin").inner_text() and fold.locator("svg .measured").count() > 3
    assert page.evaluate("document.documentElement.scrollWidth") <= page.viewport_size["width"]
    return said


def test_the_start_page_lists_results_and_leads_to_the_notebooks(page, lab):
    ran(page, lab, "00_start")
    assert "runs/made" in page.locator(".jp-OutputArea").last.inner_text()
    page.get_by_role("link", name="51_explorer").first.click()
    page.locator(".jp-Notebook", has_text="How far can it be compressed?").wait_for(timeout=WAIT)


@pytest.mark.parametrize(("width", "scheme"), [LOOKS[0], LOOKS[-1]])
def test_the_tour_compresses_when_the_slider_is_let_go(
    window, lab, folder, folder_model, train_text, heldout_text, width, scheme
):
    texts = {"calibration": quoted(train_text), "heldout": quoted(heldout_text)}
    sizes = {"calibration_tokens": 512, "heldout_tokens": 512, "context": 64, "words": 6}
    give(folder, "00_tour", model=quoted(folder_model), prompt=quoted("the cat"), **texts, **sizes)
    page = window(1280, scheme)  # JupyterLab itself needs a desk; a phone sees the page as narrow
    ran(page, lab, "00_tour")
    page.set_viewport_size({"width": width, "height": 900})
    words, image = page.locator(".widget-html-content", has_text="it writes"), page.locator("img.widget-image").first
    said, drawn = words.inner_text(), image.get_attribute("src")
    slide(page, page.locator(".claw-tour .widget-slider .noUi-handle").first, 4)
    page.locator(".claw-tour .claw-stale").first.wait_for(timeout=WAIT)  # what shows another point is grey
    page.locator(".widget-html-content", has_text="(r = 0.50)").wait_for(timeout=WAIT)
    changed(page, image, drawn, "src")
    said = words.inner_text()
    page.locator(".widget-dropdown select").first.select_option(label="random")
    page.locator(".widget-html-content", has_text="removed by random").wait_for(timeout=WAIT)
    changed(page, words, said)
    assert re.match(r"With \d+% of its parameters removed by random \(r = 0\.50\)", words.inner_text())
    assert page.get_by_text("Your turn.").count() == 5
    page.wait_for_timeout(3000)
    assert page.locator(".claw-tour .claw-stale").count() == 0
    assert page.evaluate("document.querySelector('.claw-tour .widget-slider').getBoundingClientRect().right <= innerWidth")
    assert page.evaluate("document.querySelector('.claw-tour .noUi-handle').getBoundingClientRect().width") >= 20
    wide = "([...document.querySelectorAll('.claw-tour table, .claw-tour img')].map((e) => e.getBoundingClientRect().right))"
    assert max(page.evaluate(wide)) <= page.evaluate("document.querySelector('.claw-tour').getBoundingClientRect().right") + 1


def test_the_laws_slide(page, lab, folder):
    give(folder, "50_laws", table=quoted(TABLE), draws=100)
    ran(page, lab, "50_laws")
    assert "more loss allowed" in explored(page)


def test_the_guide_gives_advice(page, lab, folder):
    give(folder, "60_guide", table=quoted(TABLE), draws=100, most_parameters="5e8")
    ran(page, lab, "60_guide")
    assert any("probability" in text for text in page.locator(".jp-OutputArea").all_inner_texts())


@pytest.mark.parametrize("name", ["20_recover", "30_evaluate", "40_speed"])
def test_without_checkpoints_a_notebook_says_what_to_run(page, lab, name):
    pages.open_notebook(page, *lab, name)
    pages.run_all(page)
    (said,) = pages.errors(page)
    assert "Run 10_compress first" in said and "Traceback" not in said and "File " not in said


def test_stages_run_one_after_the_other_on_what_the_first_made(page, lab, folder, folder_model, train_text, heldout_text):
    """From compression to what the small model can still do, as a person goes from notebook to notebook."""
    measured = {"heldout": quoted(heldout_text), "heldout_tokens": 512, "context": 64, "run": quoted("runs/page")}
    cut = {"model": quoted(folder_model), "ratios": "[0.25]", "method": quoted("magnitude"), "calibration": quoted(train_text)}
    give(folder, "10_compress", **cut, **measured)
    give(folder, "30_evaluate", tasks="[]", **measured)
    for name in ("10_compress", "30_evaluate"):
        ran(page, lab, name)
        assert page.locator(".jp-OutputArea img").count() > 0


def test_paper_figures_are_drawn(page, lab, folder):
    give(folder, "70_paper_figures", table=quoted(TABLE), out=quoted("runs/drawn"), draws=100)
    ran(page, lab, "70_paper_figures")
    assert page.locator(".jp-OutputArea img").count() >= 5
    assert len(list((folder / "runs/drawn/figures").glob("*.pdf"))) >= 5


@pytest.fixture(scope="module")
def written(table, tmp_path_factory):
    """A report as a run writes it."""
    folder = tmp_path_factory.mktemp("run")
    fitted = laws.fit(table, draws=100, compare=False)
    drawn = figures.law_curves(fitted).save(folder / "figures")
    return report.write_report(folder / "report.html", "made", fitted, table, figures=drawn)


@pytest.mark.parametrize(("width", "scheme"), LOOKS)
def test_the_report_answers_from_disk_without_network(window, written, width, scheme):
    page = window(width, scheme)
    page.context.set_offline(True)
    page.goto(written.as_uri())
    asked(page, page)
    assert dark(page) == (scheme == "dark")
    page.locator("details.any summary").click()
    words, mark = page.locator(".claw-slider .sentence"), page.locator(".claw-slider svg .mark")
    said = words.inner_text()
    page.locator("input.ratio").fill("0.3")
    assert "Removing 30.0 % of" in changed(page, words, said)
    under = page.evaluate(
        """() => { const slider = document.querySelector('input.ratio'), box = slider.getBoundingClientRect();
        const mark = document.querySelector('.claw-slider svg .mark').getBoundingClientRect();
        const thumb = box.left + 12 + (box.width - 24) * slider.value / slider.max;
        return Math.abs(thumb - (mark.left + mark.right) / 2) }"""
    )
    assert under < 3 and mark.count() == 1
    said = words.inner_text()
    page.locator(".claw-slider select.model").select_option("model-b")
    assert "model-b" in changed(page, words, said)
    said = words.inner_text()
    page.locator(".claw-slider select.response").select_option("speedup_decode")
    assert "times that of the dense model" in changed(page, words, said)
    assert page.locator(".claw-slider svg .measured").count() > 2
    foretold(page, page)
    page.evaluate("document.querySelectorAll('details').forEach((fold) => { fold.open = true })")
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.locator(".claw-how-far svg .measured").nth(1).hover()
    assert page.locator(".claw-how-far .readout").first.inner_text().startswith("Measured: ")


@pytest.fixture
def app(folder):
    """Address of the explorer as a Voilà page; asked for before `page`, so that it outlives the page."""
    with pages.served("voila", folder, str(folder / "notebooks" / "51_explorer.ipynb")) as (address, _):
        yield address


def test_the_page_of_the_explorer_answers_and_slides_without_code(app, window, tmp_path):
    for width, scheme in LOOKS:
        page = window(width, scheme)
        page.goto(app, timeout=2 * WAIT)
        page.locator("iframe.claw-frame").wait_for(timeout=WAIT)
        asked(page, page.frame_locator("iframe.claw-frame"))
        foretold(page, page.frame_locator("iframe.claw-frame"))
        assert dark(page) == (scheme == "dark")
        assert page.locator("a[href$='.ipynb']").count() == 0  # which a page without notebooks could not open
        if (width, scheme) in (LOOKS[0], LOOKS[-1]):
            page.locator(".jupyter-widget-Collapse-header, .lm-Accordion .jupyter-widget-Collapse-header").first.click()
            explored(page)
        menu = page.locator(".widget-dropdown", has=page.get_by_text("table", exact=True)).locator("select")
        assert menu.inner_text().startswith("runs/made")  # which is open, the reference study beside it
        page.evaluate("scrollTo(0, 0)")
        page.screenshot(path=tmp_path / f"menu-{width}-{scheme}.png")
        if (width, scheme) == LOOKS[0]:
            menu.select_option(index=1)
            sentence = page.frame_locator("iframe.claw-frame").locator(".claw-how-far .sentence", has_text="reference-model")
            sentence.wait_for(timeout=WAIT)
        inside = """() => [...document.querySelectorAll('.widget-slider:not([style*=none])')].every((e) => {
            const box = e.getBoundingClientRect(); return box.left >= 0 && box.right <= innerWidth + 1 })"""
        assert page.evaluate(inside)
        assert page.locator(".jp-CodeCell .jp-InputArea:visible, .highlight:visible").count() == 0
        assert "from claw import" not in page.locator("body").inner_text()
