"""What is foretold comes from other models only, holds what is measured as often as it says, and is scored by hand the same."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from claw import cli
from claw.csv_tables import read_table, table_text
from claw.errors import InputError
from claw.specs import strict_yaml
from claw.specs import study as studies
from claw.sweep import foretell

STUDY = """
name: s
models: [model-0, model-1, model-2, model-3]
methods: [random, flap, ppm, wanda-sp, minitron]
ratios: [0, 0.1, 0.2, 0.3, 0.4, 0.5]
recovery: [{recipe: lora, tokens: [50000, 1000000]}]
recovery_of: [{ratio: [0.2, 0.4]}]
"""
LAST = "model-3"


def study():
    return studies.parse_study(*strict_yaml.parse_yaml(STUDY, "s.yaml"), "s.yaml")


def measured(seed=0, noise=0.01, between=0.08):
    """The table of that study under the anchored law: slopes differ by method, model and curve."""
    rng = np.random.default_rng(seed)
    plan = study()
    methods = {name: 1.2 + 0.3 * i for i, name in enumerate(plan.methods)}
    models = {name: rng.normal(0, between) for name in plan.models}
    curves = {(model, method): rng.normal(0, between) for model in models for method in methods}
    rows = []
    for experiment in plan.experiments:
        one, tokens = experiment.compression, experiment.recovery.tokens if experiment.recovery else 0
        slope = methods.get(one.method, 0) + models[one.model] + curves.get((one.model, one.method), 0)
        healing = 0.5 * (np.log1p(1 / (tokens / 1e6 + 1)) - np.log(2))
        loss = 3 * np.exp((slope * np.log1p(one.ratio) + healing) * (one.ratio > 0) + rng.normal(0, noise) * (one.ratio > 0))
        row = {"experiment": experiment.id, "model": one.model, "method": one.method, "ratio": one.ratio, "seed": one.seed}
        row |= {"ratio_params": 0.6 * one.ratio, "recovery": "lora" if tokens else "none", "recovery_tokens": tokens}
        rows.append(row | {"loss": loss, "loss0": 3.0, "family": "made-up", "parameters0": 1e9})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def table():
    return measured()


@pytest.fixture(scope="module")
def said(table):
    return foretell.foretell(table[table["model"] != LAST], study(), LAST)


def test_every_planned_point_is_foretold_by_every_law(said):
    planned = {e.id for e in study().experiments if e.compression.model == LAST and e.compression.ratio > 0}
    assert list(said.columns) == list(foretell.COLUMNS) and said["left_out"].eq(0).all()
    for law in ("curves", "method", "crossed"):
        for name in (law, f"{law} of true share"):
            own = said[said["law"] == name]
            assert set(own["experiment"]) == planned and not own["experiment"].duplicated().any()
            assert (own["low"] < own["foretold"]).all() and (own["foretold"] < own["high"]).all()
    assert said["points"].nunique() == said["code"].nunique() == 1 and said["made"].str.len().eq(16).all()


def test_what_was_measured_of_the_model_itself_changes_nothing(table, said):
    spoiled = table.assign(loss=table["loss"].where(table["model"] != LAST, 9.0))
    again = foretell.foretell(spoiled, study(), LAST)
    assert again["left_out"].unique().tolist() == [int((table["model"] == LAST).sum())]
    changing = ["left_out", "made"]
    pd.testing.assert_frame_equal(again.drop(columns=changing), said.drop(columns=changing))


def test_bands_hold_what_is_measured_and_the_middle_is_near():
    """Four studies of four models: each foretold from the other three."""
    both = pd.concat(
        foretell.compared(foretell.foretell(one[one["model"] != LAST], study(), LAST), one) for one in map(measured, range(4))
    )
    score = foretell.score(both).set_index(["of", "law"]).loc["every point"]
    assert (score["covered"] > 0.85).all() and (score["error"] < 0.08).all()
    assert (score["bands"] == score["points"]).all()


def test_the_score_is_as_by_hand(table, said):
    both = foretell.compared(said, table)
    own = both[both["law"] == "method"]
    rows = table.set_index("experiment").loc[own["experiment"]]
    share = (rows["loss"] / rows["loss0"]).to_numpy()
    score = foretell.score(both).set_index(["of", "law"]).loc[("every point", "method")]
    assert score["error"] == pytest.approx(np.median(np.abs(own["foretold"] / share - 1)))
    assert score["covered"] == pytest.approx(np.mean((own["low"] <= share) & (share <= own["high"])))
    assert score["points"] == len(own) == 45
    parts = foretell.score(both).set_index(["of", "law"])["points"]
    assert parts["works, recovered", "method"] + parts["works, not recovered", "method"] == parts["every point", "method"]
    assert "works" not in parts.index.get_level_values("of")  # every point works, so it would be said twice


def test_points_lie_at_the_share_that_was_removed_and_a_wrong_one_is_said(table, said):
    truly = table.set_index("experiment")["ratio_params"]
    for gone in (0.0, 0.05):
        both = foretell.compared(said.assign(ratio_params=said["ratio_params"] - gone), table)
        np.testing.assert_allclose(both["ratio_params"], truly[both["experiment"]])
        np.testing.assert_allclose(
            both["share_foretold"],
            said.set_index(["experiment", "law"])["ratio_params"][list(zip(both["experiment"], both["law"], strict=True))]
            - gone,
        )
        lines = "\n".join(foretell.score_text(both))
        assert ("The shares were foretold wrongly, by 5%" in lines) == (gone > 0)
    with pytest.warns(UserWarning, match=f"claw fetch {LAST}"):
        foretell.foretell(table[table["model"] != LAST], study(), LAST)


def test_a_file_that_was_written_scores_the_same(tmp_path, table, said):
    (tmp_path / "f.csv").write_text(table_text(said))
    once, again = (foretell.score(foretell.compared(one, table)) for one in (said, read_table(tmp_path / "f.csv")))
    pd.testing.assert_frame_equal(once, again, check_dtype=False)


def test_the_command_writes_and_scores(tmp_path, monkeypatch, capsys, table):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.yaml").write_text(STUDY)
    for name, rows in (("some", table[table["model"] != LAST]), ("all", table)):
        (tmp_path / f"{name}.csv").write_text(table_text(rows))
    place = [str(tmp_path / name) for name in ("some.csv", "s.yaml", "f.csv", "all.csv")]
    assert cli.main(["foretell", place[0], "--study", place[1], "--model", LAST, "--out", place[2]]) == 0
    assert "45 points of model-3 foretold by 6 laws" in capsys.readouterr().out
    assert cli.main(["foretell", place[3], "--score", place[2], "--figures", str(tmp_path / "drawn")]) == 0
    assert {path.name for path in (tmp_path / "drawn").iterdir()} >= {"foretold.png", "foretold.csv"}
    out = capsys.readouterr().out
    assert "before anything of it was measured" in out and "works, recovered" in out
    assert cli.main(["foretell", place[3]]) == 2 and "either writes" in capsys.readouterr().err
    assert cli.main(["foretell", place[0], "--score", place[2]]) == 2 and "measures nothing" in capsys.readouterr().err


def test_what_cannot_be_foretold_is_refused(table):
    with pytest.raises(InputError, match="model"):
        foretell.foretell(table, study(), "model-9")
    with pytest.raises(InputError, match="nothing to foretell it from"):
        foretell.foretell(table[table["model"] == LAST], study(), LAST)
    with pytest.raises(InputError, match="no column"):
        foretell.compared(table, table)


def test_what_was_foretold_of_the_committed_model_is_scored_as_the_docs_quote():
    root = Path(__file__).parents[2]
    said = read_table(root / "results" / "foretold" / "qwen2.5-coder-1.5b-second.csv")
    both = foretell.compared(said, read_table(root / "results" / "reference.csv"))
    assert "\n".join(foretell.score_text(both)) in (root / "docs" / "numbers.md").read_text()
