"""Published tables give their known figures to every printed digit."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from claw import laws
from claw.laws import claims, sizes, verdicts

FILE = Path(os.environ.get("CLAW_SHARED", Path(__file__).parents[3] / "shared")) / "data" / "published_points.csv"
TASKS = ("hellaswag:acc_norm", "arc_challenge:acc_norm", "piqa:acc_norm", "winogrande:accuracy")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    if not FILE.is_file():
        pytest.skip("the published points are not here")
    points = pd.read_csv(FILE)
    points = points[(points["model"] == "Llama-3.2-1B") & points["method"].str.contains("MAW")]
    wide = points.pivot_table(index="ratio", columns="metric", values="value").reset_index()
    wide = wide[wide["wikitext:word_perplexity,none"].notna()]
    method, loss = np.where(wide["ratio"] == 0, "dense", "MAW"), np.log(wide["wikitext:word_perplexity,none"])
    accuracy = wide[list(TASKS)].mean(axis=1)
    return wide[["ratio"]].assign(model="Llama-3.2-1B", method=method, loss=loss, accuracy=accuracy)


def test_the_published_curve(table):
    assert len(table) == 7
    fitted = laws.fit(table, draws=100)
    law = fitted.curve("Llama-3.2-1B", "MAW", form="quadratic")
    assert (f"{law.quality['r2']:.3f}", f"{law.coefficients[2]:.2f}") == ("0.991", "5.67")
    assert [f"{edge:.2f}" for edge in law.intervals[2]] == ["1.68", "9.66"]
    assert f"{fitted.curve('Llama-3.2-1B', 'MAW', form='linear').quality['r2']:.3f}" == "0.957"
    accuracy = fitted.curve("Llama-3.2-1B", "MAW", "accuracy")
    assert (f"{accuracy.quality['r2']:.3f}", f"{accuracy.coefficients[1]:.2f}") == ("0.994", "-0.33")
    power = fitted.law("anchored")
    assert f"{power.coefficients[0]:.2f}" == "1.66"
    assert [f"{edge:.2f}" for edge in power.intervals["ordinary"][0]] == ["1.52", "1.80"]
    assert fitted.verdicts[0].verdict == "not judged here" and "one model" in fitted.verdicts[0].sentence


# Tables that anybody can check by hand, kept beside this file.
# slicegpt_table1.csv: SliceGPT (arXiv 2401.15024), Table 1, WikiText-2 perplexity; glu_llama.csv: word perplexity of
# Llama-3.2-1B against the share of FFN neurons removed, github.com/peremartra/llama-glu-expansion-pruning.
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def slicegpt() -> pd.DataFrame:
    frame = pd.read_csv(HERE / "slicegpt_table1.csv")
    return frame.assign(loss=np.log(frame["perplexity"])).drop(columns="perplexity")


def test_the_original_form_with_an_intercept_on_slicegpt(slicegpt):
    fitted = laws.fit(slicegpt, draws=100, compare=False)
    law = fitted.law("original+intercept")
    assert f"{law.coefficients[law.coefficient_names.index('α')]:.2f}" == "0.84"
    assert law.basis == "10 models"
    assert "not judged" in " ".join(fitted.law("original").notes)


def test_size_effects_of_slicegpt_differ_in_sign_between_families(slicegpt):
    points = laws.read_points(slicegpt)
    effects = sizes.size_effects(points, "loss").set_index("family")
    assert f"{effects.loc['OPT', 'estimate']:.3f}" == "-0.133" and f"{effects.loc['OPT', 'stderr']:.3f}" == "0.006"
    assert f"{effects.loc['Llama-2', 'estimate']:+.3f}" == "+0.414"
    verdict = claims.size_verdict(points, "loss")
    assert verdict.verdict == "not distinguishable"  # OPT says yes, Llama-2 the opposite, from three models
    for text in ("OPT by slicegpt -0.133 ± 0.006 (7 models", "Llama-2 by slicegpt +0.414", "1.0 degrees of freedom"):
        assert text in verdict.sentence
    alone = claims.size_verdict(laws.read_points(slicegpt[slicegpt["family"] == "OPT"]), "loss")
    assert alone.verdict == "supported"


def test_sizes_and_families_are_read_from_names_where_no_column_tells_them(slicegpt):
    bare = laws.read_points(slicegpt.drop(columns=["family", "parameters0"]))
    effects = sizes.size_effects(bare, "loss").set_index("family")
    assert f"{effects.loc['OPT', 'estimate']:.3f}" == "-0.133"
    assert sizes.named_size("smollm2-135m") == 135e6 and np.isnan(sizes.named_size("my-model"))


def test_the_glu_table():
    frame = pd.read_csv(HERE / "glu_llama.csv")
    fitted = laws.fit(frame.assign(loss=np.log(frame["word_perplexity"])), draws=100)
    curve = fitted.curve("Llama-3.2-1B", "MAW", form="quadratic")
    assert f"{curve.quality['r2']:.3f}" == "0.991"
    law = fitted.law("anchored")
    plain = law.intervals["ordinary"][0]  # counts the dense point, which the law meets whatever β is
    assert f"{law.coefficients[0]:.2f}" == "1.66" and [f"{edge:.2f}" for edge in plain] == ["1.52", "1.80"]
    assert law.df == [5.0] and [f"{edge:.2f}" for edge in law.interval[0]] == ["1.50", "1.82"]
    lines = verdicts.not_judged(fitted.verdicts)
    assert sum("(one model)" in line for line in lines) == 1
