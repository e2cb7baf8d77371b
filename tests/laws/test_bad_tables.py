"""Tables that nobody can use are refused in words, whatever is wrong with them; odd ones that can be used are."""

import gzip
import json
from contextlib import suppress

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from claw import laws, records
from claw.errors import InputError

GOOD = {"model": "m", "method": ["dense", "a", "a", "a"], "ratio": [0, 0.1, 0.3, 0.5], "loss": [3.0, 3.2, 3.6, 4.4]}


def good(**columns) -> pd.DataFrame:
    return pd.DataFrame(GOOD).assign(**columns)


def assert_read_or_refused(path) -> None:
    with suppress(InputError):  # anything else is a fault
        laws.read_points(laws.read(path))


def digest(table) -> str:
    return laws.read_points(table).digest


@pytest.mark.parametrize("entry", [laws.read, laws.read_points, laws.fit])
@pytest.mark.parametrize(
    ("table", "says"),
    [
        (good(**{"loss.1": 1.0}), "same name: loss"),
        (pd.concat([good(), good()[["loss"]]], axis=1), "same name: loss"),
        (good(loss=[[3.0], [3.1], [3.2], [3.3]]), "loss holds lists"),
        (good(ratio=[{}, {}, {}, {}]), "ratio holds lists"),
        (good(model=["m", None, "m", np.nan]), "name of the model is missing in 2 rows: 1, 3"),
        (good(method=["dense", "a", None, "a"]), "name of the method is missing in 1 row"),
        (good(method=["dense", "a", "", "a"]), "name of the method is missing in 1 row"),
        (good(loss=[11.0, 20.0, 30.0, 40.0]), "is this perplexity"),
        (good(loss=[20.0, 25.0, 30.0, 40.0], method="a", ratio=[0.1, 0.2, 0.3, 0.4]), "is this perplexity"),
        (good(ratio_params=[0, 0.1, 30, 40]), "ratio_params"),
        (good(ratio=[0, 0.1, 30, 50]), "above 1"),
        (good(ratio=[1.0, 0.9, 0.7, 0.5], method="a"), 'ratio="kept"|outside|nothing left'),
        (good(ratio=[0, 0.9, 0.7, 0.5]), 'ratio="kept"'),
        (good(loss=["high", "3", "4", "5"]), "not numbers|not a number|'high'"),
        (pd.DataFrame([[0, 1], [2, 3]]), "no column|models or methods"),
        (pd.DataFrame({0: ["m"], 1: ["a"], "ratio": [0.1]}), "no column"),
        (pd.DataFrame(columns=list(GOOD)), "no rows"),
        (pd.DataFrame(), "no rows|no column"),
        (None, "not NoneType"),
        (7, "not int"),
    ],
)
def test_what_cannot_be_used_is_refused_by_name(entry, table, says):
    with pytest.raises(InputError, match=says) as refused:
        entry(table)
    assert "\n" not in str(refused.value)


def test_columns_of_several_levels_are_refused_by_name():
    with pytest.raises(InputError, match="no column model"):
        laws.fit(pd.concat({"a": good()}, axis=1))


def test_a_law_that_was_not_fitted_is_said():
    fitted = laws.fit(good(loss=[3.0, np.inf, np.inf, np.inf]), draws=100)
    with pytest.raises(InputError, match=r"No law of loss across models and methods was fitted.*laws\.unfitted"):
        fitted.predict(0.3, model="m", method="a")
    with pytest.raises(InputError, match="No model is named"):
        laws.fit(good(), draws=100).predict(0.3)


@pytest.mark.parametrize("name", ["=cmd", "+1", "-", "@x", "'=quoted", "nan"])
def test_a_table_as_claw_writes_it_is_read_as_it_was(name, tmp_path):
    table = good(method=["dense", name, name, name], loss0=3.0, family=name)
    records.save_csv(table, tmp_path / "own.csv")
    read = laws.read(tmp_path / "own.csv").table
    assert list(read["method"]) == list(table["method"]) and list(read["family"]) == list(table["family"])
    assert (read["loss0"] == 3.0).all()


NAMES = ["nan", "None", "none", "NA", "null", "N/A", "-", "inf", "1.0", "007", "True", "=cmd", "a|b", "ü", "0.3"]


@pytest.mark.parametrize("name", NAMES)
def test_names_that_look_like_nothing_survive(tmp_path, name):
    table = pd.DataFrame(GOOD).assign(model=name, method=["none", *[f"{name} pruner"] * 3])
    table.to_csv(tmp_path / "t.csv", index=False)
    read = laws.read(tmp_path / "t.csv")
    assert set(read.table["model"]) == {name}
    assert list(read.table["method"]) == ["dense", *[f"{name} pruner"] * 3]
    fitted = laws.from_json(laws.fit(read, draws=100, compare=False).to_json())
    assert set(fitted.points.rows["model"].astype(str)) == {name}
    as_method = pd.DataFrame(GOOD).assign(method=["dense", name, name, name])
    assert set(laws.read(as_method).table["method"]) == {"dense", name}


@pytest.mark.parametrize(
    "change",
    [
        {"loss": [3.0, 3.2, np.inf, 4.4]},
        {"loss": [3.0, 3.2, 1e308, 4.4]},
        {"loss": [3.0, 3.2, -np.inf, 4.4]},
        {"loss": [3.0, 3.2, 10**400, 4.4]},
        {"loss": [3.0, 3.2, "1e999", 4.4]},
        {"loss": [3.0, 3.2, None, 4.4]},
        {"ratio": [0, 0.1, 0.1 + 1e-12, 0.5]},
        {"ratio": [1e-13, 0.1, 0.3, 0.5]},
        {"seed": -1},
        {"seed": [0, -1, 2**70, 3]},
        {7: "integer heading", 8.5: 1},
        {"model": 7},
        {"model": pd.Categorical(["m"] * 4)},
        {"accuracy": [0.5, None, 0.4, 0.3]},
        {"accuracy": pd.array([0.5, pd.NA, 0.4, 0.3], dtype="Float64")},
        {"note": [[1], {}, (), None]},
        {"day": pd.Timestamp("2026-01-01")},
        {"empty": None},
    ],
)
def test_odd_tables_are_read_and_fitted(change):
    table = pd.DataFrame(GOOD)
    for name, values in change.items():
        table[name] = values
    fitted = laws.fit(laws.read(table), draws=100, compare=False)
    assert fitted.curves
    assert all(np.isfinite(law.coefficients).all() for law in fitted.curves)


def test_ratios_that_differ_by_rounding_are_one():
    near = good(ratio=[0, 0.3, 0.3 + 1e-12, 0.1 + 0.2], loss=[3, 3.5, 3.6, 3.7])
    assert set(laws.read_points(near).rows["ratio"]) == {0, 0.3}
    assert set(laws.read_points(good()).rows["ratio"]) == {0, 0.1, 0.3, 0.5}


@pytest.mark.parametrize("seed", [-1, 1.5, "0", None, True, 2**40])
def test_a_seed_that_no_generator_takes_is_refused(seed):
    with pytest.raises(InputError, match="seed"):
        laws.fit(good(), seed=seed)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "empty"),
        (b"\n \n", "empty"),
        (b"\xef\xbb\xbf", "empty"),
        (b"model,method,ratio,loss\n", "no rows"),
        (b"model,method,ratio,loss\n,,,\n\n", "no rows"),
        (b"just a text\nof two lines", "one column"),
        (b"model,method,ratio,loss,loss\nm,a,0.1,3,4\n", "same name: loss"),
        (b"model,method,ratio,loss\nm,a,0.1,3,4\n", "more cells"),
        (b'model,method,ratio,loss\nm,"a,0.1,3\n', "never closed"),
        (b"PK\x03\x04not a workbook", "CSV UTF-8"),
        (b"\xd0\xcf\x11\xe0old excel", "CSV UTF-8"),
        (b"PAR1 but no more", "Parquet"),
        (b"\x1f\x8bnot gzip", "cannot be read"),
        (gzip.compress(b"model,ratio\n" * 9, mtime=0)[:-9], "cannot be read"),
        (b"\x00\x01\x02\x03", "not a text file"),
        (b'{"model": "m"', "JSON"),
        (b"[1, 2, 3]", "one mapping per line"),
        (b"{}", "no rows|no column"),
        (b"[" * 100_000, "JSON"),
        (b'{"model": "m", "method": "a", "ratio": 0.1, "loss": [1]}', "loss holds lists"),
        (b"a;b\n" + b"x" * 200_000 + b";1\n", "no column|not a table"),
    ],
)
def test_files_that_are_no_tables_are_refused(tmp_path, content, says):
    path = tmp_path / "mine.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=says):
        laws.read(path)


def test_what_is_not_there_is_said(tmp_path):
    with pytest.raises(InputError, match="There is no table"):
        laws.read(tmp_path / "none.csv")
    with pytest.raises(InputError, match="holds no records"):
        laws.read(tmp_path)


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"los": "ppl"}, "did you mean 'loss'"),
        ({"loss": "pppl"}, "unknown loss"),
        ({"loss": 3}, "loss"),
        ({"ratio": "keep"}, 'removed", "kept"'),
        ({"ratio": 2}, "fraction"),
        ({"ratio": 0.5}, "ratios of its own"),
        ({"percent": "yes"}, "True, False"),
        ({"columns": {"nothing": "ratio"}}, "unknown column 'nothing'"),
        ({"columns": {"loss": "nothing"}}, "unknown name"),
        ({"columns": ["loss"]}, "columns"),
        ({"dense": "vanilla"}, "unknown method 'vanilla'"),
        ({"model": "x"}, "column of models"),
        ({"accuracy": "nothing"}, "unknown column"),
        ({"sizes": {"nobody": 1e9}}, "unknown model"),
        ({"sizes": {"m": -1}}, "parameters"),
        ({"values": "ppl"}, "values"),
        ({"wide": "tasks"}, "wide"),
        ({"separator": ";;"}, "separator"),
        ({"decimal": "'"}, "decimal"),
        ({"fill": "yes"}, "fill"),
    ],
)
def test_what_is_said_wrongly_is_refused(said, says):
    with pytest.raises(InputError, match=says):
        laws.read(good(), **said)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"ratio": [0, 0.1, 0.2, 0.3], "ppl": 9.0, "wikitext2": 10.0}, 'loss="ppl" or loss="wikitext2"'),
        ({"loss": 3.0, "sparsity": 0.2, "pruning_ratio": 0.3}, 'columns={"sparsity": "ratio"}'),
        ({"loss": 3.0, "ratio": ["10%", "0.2", "30%", "40%"]}, "percent sign"),
        ({"loss": 3.0, "ratio": [0, 2, 4, 800]}, "times"),
        ({"loss": 3.0, "ratio": ["0", "2:4", "4:8", "1:2"]}, "not numbers"),
        ({"loss": 3.0, "ratio": [0, 0.1, 0.2, 0.3], "accuracy": [60, 0.5, 40, 30]}, "above 1 and some below"),
        ({"ratio": [0, 0.1, 0.2, 0.3], "piqa": [0.6, 0.5, 0.4, 0.3], "boolq": [60, 50, 40, 30]}, "side by side"),
        ({"ratio": [0, 0.1, 0.2, 0.3], "ppl": [0.9, 1.0, 1.2, 1.3]}, "no perplexity is below 1"),
    ],
)
def test_what_could_be_two_things_is_asked(columns, says):
    with pytest.raises(InputError, match=says.replace("{", r"\{").replace("}", r"\}")):
        laws.read(pd.DataFrame({"model": "m", "method": ["dense", "a", "a", "a"]} | columns))


ODD = ["30%", "-", "/", "none", "nan", "1,5", "1e309", "±", "0.3 ± 0.1", "dense", "1.2.3", "∞", "٣", "\ud800", "2x"]
KNOWN = "model method ratio loss ppl accuracy kept sparsity piqa ratio_params loss0 seed word_ppl 30% OPT-125M BF16".split()
NESTED = st.lists(st.integers(), max_size=2) | st.dictionaries(st.text(max_size=2), st.integers(), max_size=1)
NUMBERS = st.floats() | st.integers(-(10**20), 10**20) | st.floats(0, 1) | st.booleans()
CELLS = st.none() | NUMBERS | st.text(max_size=4) | st.binary(max_size=3) | st.sampled_from(ODD) | NESTED | st.dates()
OTHERS = st.text(max_size=5) | st.integers(-2, 2) | st.tuples(st.text(max_size=2), st.integers(0, 1)) | st.none()
COLUMNS = [*GOOD, "accuracy", "ratio_params"]
HEADINGS = st.sampled_from(KNOWN) | OTHERS


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(HEADINGS, max_size=7), st.data())
def test_a_frame_of_anything_is_read_or_refused(headings, data):
    rows = data.draw(st.integers(0, 4))
    columns = [data.draw(st.lists(CELLS, min_size=rows, max_size=rows)) for _ in headings]
    frame = pd.DataFrame({i: pd.Series(cells, dtype=object) for i, cells in enumerate(columns)}, index=range(rows))
    frame.columns = pd.Index(headings, dtype=object, tupleize_cols=False)
    for use in (laws.read, laws.read_points, lambda table: laws.read_points(laws.read(table))):
        try:
            use(frame)
        except InputError:
            continue


@settings(max_examples=100, deadline=None)
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))))
def test_a_file_of_anything_is_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "anything.csv"
    path.write_bytes(content)
    assert_read_or_refused(path)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.text('a1.,;%-"\n\t|{}[] ', max_size=5), min_size=1, max_size=5), max_size=6), st.sampled_from(",;\t|")
)
def test_a_table_of_any_cells_is_read_or_refused(tmp_path_factory, rows, mark):
    path = tmp_path_factory.getbasetemp() / "cells.csv"
    lines = [mark.join(["model", "method", "ratio", "ppl"]), *(mark.join(row) for row in rows)]
    path.write_text("\n".join(lines), encoding="utf-8")
    assert_read_or_refused(path)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.dictionaries(st.sampled_from(list(GOOD)), st.none() | st.floats() | st.text(max_size=3) | NESTED), max_size=4)
)
def test_json_lines_of_anything_are_read_or_refused(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert_read_or_refused(path)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.sampled_from([*GOOD, "accuracy", "ratio_params"]), CELLS), max_size=3),
    st.booleans(),
)
def test_a_good_table_with_odd_cells_is_read_or_refused(changes, as_perplexity):
    ratios = [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    table = pd.DataFrame(
        {"model": "m", "method": ["dense", *["a"] * 6], "ratio": ratios, "loss": 3 + np.array(ratios)}, dtype=object
    )
    table = table.assign(accuracy=0.6 - table["ratio"] / 2, ratio_params=table["ratio"] / 2).astype(object)
    for row, column, value in changes:
        table.at[row, column] = value
    table = table.rename(columns={"loss": "ppl"}) if as_perplexity else table
    try:
        points = laws.read_points(laws.read(table))
    except InputError as refused:
        assert str(refused)
        return
    used = points.rows[points.rows["use_loss"]]
    assert np.isfinite(used["loss"]).all() and (used["ratio"] < 1).all() and (used["ratio"] >= 0).all()
