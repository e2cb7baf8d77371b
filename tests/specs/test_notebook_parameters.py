"""A notebook's parameters become typed values: unknown names are refused, also when a notebook is run again."""

import json

import pytest

from claw.errors import InputError
from claw.specs import notebooks

CHECK = "asked = parameters.from_notebook(parameters.LawsParameters, globals())"
CELL = 'table: str = "t.csv"  # a table\ndraws: int = 100  # draws'


def ask(variables, *cells):
    return notebooks.from_notebook(notebooks.LawsParameters, variables | {"In": ["", *cells, CHECK]})


def test_an_unknown_name_is_refused_with_a_near_one():
    with pytest.raises(InputError, match=r"'drws'.*draws"):
        notebooks.from_notebook(notebooks.LawsParameters, {"drws": 100})
    for wrong in ("drws = 100", "# Parameters\ndrws = -1", 'drws = float("nan")', "drws: list = [1, (2, {3: None})]"):
        with pytest.raises(InputError, match="drws"):
            ask({"drws": 100}, CELL, wrong)


def test_a_second_run_in_the_same_kernel_is_not_refused_for_what_the_first_one_left():
    left = {"results": [1], "answer_1": None, "asked": object(), "table": "t.csv", "draws": 100}
    later = ("results = stages.compress(asked)", "answer_1 = None\nexercises.check(answer_1)")
    assert ask(left, CELL, CHECK, *later, CELL).draws == 100
    assert ask(left, CELL, CHECK, *later).table == "t.csv"  # the check alone
    with pytest.raises(InputError, match="drws"):
        ask(left | {"drws": 5}, CELL, CHECK, *later, CELL + "\ndrws = 5")


@pytest.mark.parametrize("line", ["x = f(1)", "x = y", "x = y.z", "x = [i for i in y]", "x += 1", "x", "x.y = 1", "%magic"])
def test_cells_that_compute_are_not_parameters(line):
    assert ask({"x": 1, "table": "t.csv"}, CELL, line).table == "t.csv"


def checkpoint(folder, name, method, ratio, recovery=None):
    place = folder / "checkpoints" / name
    place.mkdir(parents=True)
    spec = {"compression": {"model": "m", "method": method, "ratio": ratio}, "recovery": recovery}
    (place / "claw.json").write_text(json.dumps({"experiment": spec}))
    return str(place)


def test_without_names_a_notebook_takes_the_checkpoints_of_its_run(tmp_path):
    late, early = checkpoint(tmp_path, "a", "magnitude", 0.5), checkpoint(tmp_path, "b", "magnitude", 0.1)
    better = checkpoint(tmp_path, "c", "magnitude", 0.1, {"recipe": "lora"})
    dense = checkpoint(tmp_path, "d", "dense", 0.0, {"recipe": "lora"})
    run = str(tmp_path)
    assert notebooks.RecoverParameters(run=run, tokens=[1000]).checkpoints == (early, late)
    assert notebooks.EvaluateParameters(run=run).checkpoints == ("m", dense, early, better, late)
    assert notebooks.SpeedParameters(run=run).checkpoints == (early, better, late)
    assert notebooks.SpeedParameters(run=run, checkpoints=["x"]).checkpoints == ("x",)


def test_without_checkpoints_it_says_what_to_run(tmp_path):
    with pytest.raises(InputError, match="Run 10_compress first"):
        notebooks.from_notebook(notebooks.SpeedParameters, {"run": str(tmp_path)})
