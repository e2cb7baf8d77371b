"""The published measurements: every figure has a source and a sane value; the tidy table is what the script makes of them."""

import math
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripts import script

RESULTS = Path(__file__).parents[1] / "results"
FOLDER = RESULTS / "published"
RANGES = {"perplexity": (1, math.inf), "word_perplexity": (1, math.inf), "bits_per_byte": (0, 8), "loss": (0, 20)}
AXES = {"none", "params", "nonembedding", "ffn", "hidden", "layers", "experts"}


tidy = script("results/published/tidy.py")
POINTS, SHAPES = tidy.read()
PAPERS = pd.read_csv(FOLDER / "papers.csv")


def faults(points: pd.DataFrame) -> list[str]:
    """What is wrong with rows, each with its line in points.csv."""
    wrong = []
    for line, row in zip(points.index + 2, points.itertuples(), strict=True):
        low, high = RANGES.get(row.metric, (0, 1))
        if row.paper not in set(PAPERS["paper"]):
            wrong.append(f"line {line}: source {row.paper!r} is not in papers.csv")
        if not low <= row.value <= high:
            wrong.append(f"line {line}: {row.metric} {row.value:g} is outside [{low:g}, {high:g}]")
        if row.ratio_of not in AXES or not -0.1 < row.ratio < 1:  # SliceGPT may add a few parameters
            wrong.append(f"line {line}: ratio {row.ratio:g} of {row.ratio_of!r}")
    listed = pd.read_csv(FOLDER / "disagreements.csv")
    known = set(zip(listed["model"], listed["metric"], listed["dataset"], listed["paper"], strict=True))
    for row in tidy.disagreements(points).itertuples():
        if (row.model, row.metric, row.dataset, row.paper) not in known:
            wrong.append(f"line {row.line}: uncompressed {row.model}, {row.dataset}: {row.value:g} contradicts another source")
    return wrong


def test_every_figure_has_a_source_and_a_sane_value():
    assert faults(POINTS) == []
    assert PAPERS["paper"].is_unique and set(POINTS["paper"]) == set(PAPERS["paper"])


@pytest.mark.parametrize(
    ("change", "says"),
    [({"paper": "nobody"}, "not in papers.csv"), ({"value": -1.0}, "outside"), ({"ratio": 30.0}, "ratio 30")],
)
def test_a_bad_row_is_named_with_its_line(change, says):
    bad = POINTS.copy()
    for name, value in change.items():
        bad.loc[100, name] = value
    assert any("line 102" in fault and says in fault for fault in faults(bad))


def test_an_uncompressed_figure_that_contradicts_others_is_named_with_its_line():
    place = POINTS[(POINTS["model"] == "OPT-6.7B") & (POINTS["method"] == "dense") & (POINTS["dataset"] == "wikitext2 ctx2048")]
    bad = pd.concat([POINTS, place.tail(1).assign(paper="flap", value=11.9)], ignore_index=True)
    assert any(f"line {len(bad) + 1}: uncompressed OPT-6.7B" in fault for fault in faults(bad))


def test_the_committed_tables_are_what_the_script_makes():
    for made, path in (
        (tidy.tidy(POINTS, SHAPES), RESULTS / "published.csv"),
        (tidy.disagreements(POINTS), FOLDER / "disagreements.csv"),
    ):
        digits = "%.6g" if path.parent == RESULTS else "%.4g"
        assert path.read_text() == made.to_csv(index=False, lineterminator="\n", float_format=digits), (
            f"python {FOLDER.name}/tidy.py"
        )


def test_shapes_have_the_published_sizes():
    published = POINTS.groupby("model")["parameters"].first()
    for shape in SHAPES.itertuples():
        assert tidy.parts_of_shape(shape)["all"] == pytest.approx(float(published[shape.model]), rel=0.007), shape.model


def test_slicing_levels_become_the_shares_that_their_authors_state():
    """SliceGPT states that slicing 25 % and 30 % of Llama-2-70B removes 16 and 23 % (about) of its parameters."""
    llama = next(shape for shape in SHAPES.itertuples() if shape.model == "Llama-2-70B")
    whole = tidy.parts_of_shape(llama)["all"]
    assert [round(1 - tidy.sliced_size(llama, level) / whole, 2) for level in (0.25, 0.3)] == [0.16, 0.22]


@settings(max_examples=50, deadline=None)
@given(index=st.sampled_from(range(len(SHAPES))), level=st.floats(0.0, 0.9))
def test_slicing_more_leaves_less(index, level):
    shape = list(SHAPES.itertuples())[index]
    assert tidy.sliced_size(shape, level + 0.05) < tidy.sliced_size(shape, level)


def test_losses_are_relative_to_the_uncompressed_model_on_the_same_text():
    table = pd.read_csv(RESULTS / "published.csv")
    row = table[
        (table["model"] == "Llama-2-7B") & (table["method_as_printed"] == "slicegpt-calib1024") & (table["ratio"] == 0.25)
    ]
    row = row[row["context"] == 2048]
    assert row["loss"].iloc[0] == pytest.approx(math.log(7.24), abs=0.02) and row["loss0"].iloc[0] == pytest.approx(
        math.log(5.47), abs=0.01
    )
    common = table[table["apart"].isna()]
    assert common["ratio_params"].notna().all() and (common["ratio_params"] < 1).all()
    assert not (common["loss0"].notna() & common["loss"].isna()).any()
    assert not table["apart"].isna().all() and table.loc[table["ratio_of"] == "experts", "apart"].notna().all()
