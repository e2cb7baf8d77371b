"""The HTML report stands alone: no network, no broken data, nothing of a name taken as markup."""

import json
import re

import numpy as np
import pandas as pd
import pytest

from claw import laws
from claw.show import report


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
