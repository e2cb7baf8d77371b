"""The HTML report stands alone: no network, no broken data, nothing of a name taken as markup."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest

from claw import laws
from claw.figures.captions import caption
from claw.show import how_far, page_parts, report


@pytest.fixture
def table():
    r = np.array([0, 0.2, 0.4, 0.6, 0.8])
    rows = pd.DataFrame({"model": "tiny", "family": "llama", "parameters0": 1e6, "ratio": r, "ratio_params": 0.6 * r})
    rows = rows.assign(accuracy=0.6 - 0.2 * r + 0.01 * np.sin(7 * r), accuracy0=0.6, accuracy_stderr=0.02, chance=0.25)
    curves = [
        rows.assign(method=method, loss=3 + slope * r**2 + 0.01 * np.cos(9 * r), loss0=3.0, loss_stderr=0.02, recovery_tokens=0)
        for method, slope in (("magnitude", 3.0), ("wanda-sp+ridge", 1.5))
    ]
    return pd.concat(curves, ignore_index=True)


@pytest.fixture
def page(table, tmp_path):
    figure = tmp_path / "one.svg"
    figure.write_text('<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><g/></svg>')
    fitted = laws.fit(table)
    notebooks = [tmp_path / "notebooks" / "x.ipynb"]
    title = "a <b>study</b>"
    path = report.write_report(tmp_path / "report.html", title, fitted, table, figures=[figure], notebooks=notebooks)
    return path.read_text()


def test_it_needs_no_network(page):
    addresses = {address for address in re.findall(r"""(?:src|href)=["']([^"']+)""", page) if "://" in address}
    assert not addresses and "@import" not in page and "fetch(" not in page


def test_names_are_text_not_markup(page):
    assert "<b>study" not in page and "a &lt;b&gt;study" in page


def test_it_holds_figures_tables_links_and_the_slider(page):
    assert "<svg" in page and "<?xml" not in page and 'href="notebooks/x.ipynb"' in page
    assert page.count("<table") >= 1 and 'type="range"' in page


def test_the_sliders_data_is_json_with_every_curve(table):
    page = report.slider(laws.fit(table))
    data = json.loads(re.search(r"<script[^>]*application/json[^>]*>(.*?)</script>", page, re.S).group(1))
    assert {"magnitude", "wanda-sp+ridge"} <= set(re.findall(r"magnitude|wanda-sp\+ridge", json.dumps(data)))


@pytest.fixture
def reached(table):
    return how_far.how_far_data(laws.fit(table, compare=False, draws=100))


def test_the_best_method_is_first_and_answers_are_read_off_measured_points(table, reached):
    fitted = laws.fit(table, compare=False, draws=100)
    first = reached["curves"][0]
    assert (reached["axis"], first["method"]) == ("ratio_params", "wanda-sp+ridge")
    for percent in (1, 10, 40):
        own = fitted.reading("tiny", "wanda-sp+ridge", axis="ratio_params").critical_ratio(1 + percent / 100)
        answer = [math.nan if end is None else end for end in first["reach"][percent]]
        assert answer == pytest.approx([own.ratio, own.low, own.high], abs=1e-4, nan_ok=True)
    assert [point[3] for point in first["points"]] == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])  # the method's own ratio
    (accuracy,) = first["answers"]
    assert accuracy["points"][1] == pytest.approx([0.12, table["accuracy"].iloc[1]]) and accuracy["chance"] == 0.25


def test_accepting_more_never_reaches_less(reached):
    for curve in reached["curves"]:
        reach = [share for share, _, _ in curve["reach"] if share is not None]
        assert reach == sorted(reach) and max(reach) <= curve["limit"] + 1e-9


def test_controls_are_offered_last(reached):
    assert [curve["control"] for curve in reached["curves"]] == [False, True]


def test_without_losses_the_question_is_of_accuracy(table):
    data = how_far.how_far_data(laws.fit(table.drop(columns=["loss", "loss0", "loss_stderr"]), compare=False, draws=100))
    assert data["response"] == "accuracy" and len(data["curves"][0]["reach"]) == 51
    json.dumps(data, allow_nan=False)


def test_without_true_shares_the_own_ratio_leads(table):
    bare = laws.fit(table.drop(columns="ratio_params"), compare=False, draws=100)
    data = how_far.how_far_data(bare)
    assert data["axis"] == "ratio" and data["curves"][0]["points"][1][0] == pytest.approx(0.2)
    assert report.slider_curves(bare)[0]["end"] == 0.95


def test_a_slider_ends_at_what_its_method_can_reach(table):
    for one in report.slider_curves(laws.fit(table, compare=False, draws=100)):
        assert one["end"] == pytest.approx({"ratio_params": 0.95 * 0.6, "ratio": 0.95}[one["axis"]])


def test_measured_speeds_have_points_of_their_own(table):
    timed = table.assign(speedup_decode=1 / (1 - table["ratio_params"]))
    speeds = [one for one in report.slider_curves(laws.fit(timed, draws=100, compare=False)) if "speedup" in one["response"]]
    assert len(speeds) == 2 and speeds[0]["points"][1][1] == pytest.approx(1 / (1 - 0.12))


def test_a_table_says_the_true_share_first(page):
    assert "<td>24.0 % (r = 0.4)</td>" in page and page.index("<h1>How far can tiny be compressed?") < page.index("removed")


def test_a_page_in_a_page_carries_everything(table):
    framed = page_parts.framed(how_far.how_far_page(laws.fit(table, compare=False, draws=100)), "How far?")
    assert framed.startswith("<iframe") and "http" not in framed.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.parametrize("name", ["loss_by_ratio_params", "accuracy_by_ratio_1000000", "paper_radar", "out_of_sample_loss"])
def test_figures_have_captions_in_words(name):
    assert len(caption(name).split()) > 8 and "_" not in caption(name) and caption("my_own") == "my own"
