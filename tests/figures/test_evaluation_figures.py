"""Figures of evaluations draw the table's numbers, and count questions that change sides."""

import numpy as np
import pandas as pd
import pytest

from claw import figures, records
from claw.errors import InputError
from claw.specs.experiment import Compression, Experiment, Recovery

RATIOS = (0.0, 0.2, 0.4, 0.6)
TASKS = ("piqa", "arc_easy", "mmlu")
N = 80


def tasks_record(
    method: str, ratio: float, right: dict[str, np.ndarray], seed: int = 0, recovery: Recovery | None = None
) -> dict:
    experiment = Experiment(compression=Compression(model="m", method=method, ratio=ratio, seed=seed), recovery=recovery)
    rows = [
        {"task": task, "metric": metric, "value": float(sides.mean()), "stderr": 0.05, "n": len(sides), "chance": 0.25}
        for task, sides in right.items()
        for metric in (("acc",) if task == "mmlu" else ("acc", "acc_norm"))
    ]
    answered = {task: {"acc": "".join(map(str, sides.astype(int)))} for task, sides in right.items()}
    result = {"rows": rows, "num_fewshot": 0, "limit": N, "answered": answered}
    record = {"experiment": experiment.id, "stage": "tasks", "measured": "", "spec": experiment.model_dump(mode="json")}
    return record | {"environment": {}, "status": "done", "seconds": 1.0, "result": result}


@pytest.fixture
def results() -> list[dict]:
    draw = np.random.default_rng(0)
    ability = {task: draw.random(N) for task in TASKS}
    experiments = []
    for method in ("flap", "magnitude"):
        for ratio in RATIOS:
            if ratio == 0.0 and method != "flap":
                continue
            noise = {task: 0.1 * draw.standard_normal(N) for task in TASKS}
            right = {task: ability[task] + noise[task] > 0.3 + ratio for task in TASKS}
            experiments.append(tasks_record("dense" if ratio == 0.0 else method, ratio, right))
    return experiments


@pytest.fixture
def table(results) -> pd.DataFrame:
    frame = records.from_records(results)
    loss = 3 + 4 * frame["ratio"] ** 2 + 0.2 * (frame["method"] == "magnitude")
    return frame.assign(loss=loss, loss_stderr=0.05, family="Llama")


def test_it_draws_the_numbers_of_the_table(table):
    drawing = figures.evaluation(table)
    assert len(drawing.figure.axes) == 2
    for measure in ("loss", "accuracy"):
        shown = drawing.numbers[drawing.numbers["measure"] == measure]
        assert sorted(shown["value"]) == pytest.approx(sorted(table[measure]))
    lines = {line.get_label() for panel in drawing.figure.axes for line in panel.get_lines()}
    assert {"dense", "guessing"} <= lines


def test_without_tasks_only_the_loss_is_drawn(table):
    drawing = figures.evaluation(table.assign(accuracy=np.nan))
    assert [panel.get_title() for panel in drawing.figure.axes] == ["held-out loss (nats/token)"]


def test_every_task_has_a_panel_with_its_first_metric(table):
    drawing = figures.accuracy_by_task(table)
    titles = [panel.get_title() for panel in drawing.figure.axes if panel.get_visible()]
    assert titles == ["piqa (acc_norm)", "arc_easy (acc_norm)", "mmlu (acc)"]
    assert drawing.numbers["chance"].eq(0.25).all() and drawing.numbers["n"].eq(N).all()


def test_no_tasks_or_no_rows_say_what_to_do(table):
    with pytest.raises(InputError, match="No task was scored"):
        figures.accuracy_by_task(table[[name for name in table if not name.endswith("_chance")]])
    with pytest.raises(InputError, match="evaluate some checkpoints"):
        figures.evaluation(table.iloc[:0])


def test_flips_are_counted_against_the_dense_model(results):
    drawing = figures.flips(results)
    numbers = drawing.numbers
    assert set(numbers["task"]) == set(TASKS) and set(numbers["curve"]) == {"flap", "magnitude"}
    sides = {r["spec"]["compression"]["ratio"]: r["result"]["answered"]["piqa"]["acc"] for r in results[:4]}
    lost = sum(a == "1" and b == "0" for a, b in zip(sides[0.0], sides[0.6], strict=True))
    row = numbers[(numbers["task"] == "piqa") & (numbers["curve"] == "flap") & (numbers["ratio"] == 0.6)].iloc[0]
    assert row["lost"] == lost > 0
    assert (numbers[numbers["ratio"] == 0.0][["lost", "gained"]] == 0).all(axis=None)


def test_the_map_shows_each_question_once(results):
    image = figures.flips(results[:4]).figure.axes[0].get_images()[0].get_array()
    assert image.shape == (len(RATIOS), N)
    assert (np.diff(image[0].astype(int)) <= 0).all()  # what the dense model answers rightly stands first
    assert image.sum(axis=1).tolist() == [r["result"]["answered"]["piqa"]["acc"].count("1") for r in results[:4]]


def test_seeds_and_recovered_models_have_maps_of_their_own_beside_the_dense_model_as_it_is(results):
    trained = Recovery(recipe="lora", tokens=1000, corpus="c", length=8, batch=1, learning_rate=1e-3, rank=4)
    none, every = np.zeros(N, dtype=bool), np.ones(N, dtype=bool)
    more = [
        tasks_record("dense", 0.0, {"piqa": none}, recovery=trained),
        tasks_record("flap", 0.2, {"piqa": none}, recovery=trained),
        tasks_record("flap", 0.2, {"piqa": every}, recovery=trained.model_copy(update={"tokens": 5000})),
        tasks_record("flap", 0.2, {"piqa": none}, seed=1),
    ]
    dense = results[0]["result"]["answered"]["piqa"]["acc"].count("1")
    for order in (results + more, more + results):
        numbers = figures.flips(order).numbers
        last = numbers[(numbers["task"] == "piqa") & (numbers["ratio"] == 0.2)].set_index("curve")
        assert {name: (row["lost"], row["gained"]) for name, row in last.iterrows() if name.startswith("flap, seed")} == {
            "flap, seed 0": tuple(last.loc["flap, seed 0", ["lost", "gained"]]),
            "flap, seed 0, lora 1k tokens": (dense, 0),
            "flap, seed 0, lora 5k tokens": (0, N - dense),
            "flap, seed 1": (dense, 0),
        }


def test_one_model_alone_has_no_flips(results):
    assert figures.flips(results[:1]).numbers.empty
    with pytest.raises(InputError, match="score some tasks"):
        figures.flips([])


def test_what_was_recovered_has_a_curve_of_its_own_that_starts_at_the_dense_model_trained_alike(table):
    """Budgets, recipes and seeds of one method were joined by one line."""
    cut = table[table["method"] == "flap"]
    trained = [
        cut.assign(recovery="lora", recovery_tokens=1000, loss=cut["loss"] - 0.1),
        cut.assign(recovery="full", recovery_tokens=1000, loss=cut["loss"] - 0.2),
        table[table["method"] == "dense"].assign(recovery="lora", recovery_tokens=1000, loss=2.8),
        cut.assign(seed=1, loss=cut["loss"] + 0.2),
    ]
    drawing = figures.evaluation(pd.concat([table, *trained], ignore_index=True))
    panel = drawing.figure.axes[0]
    lines = {tuple(np.round(np.asarray(line.get_ydata(), float), 3)) for line in panel.get_lines() if len(line.get_ydata()) > 2}
    means = lambda start, change: tuple(np.round([start, *(cut["loss"] + change)], 3))
    assert {means(3.0, 0.1), means(2.8, -0.1), means(3.0, -0.2)} <= lines
    assert {"flap", "flap, 1k tokens of lora", "flap, 1k tokens of full"} <= set(panel.get_legend_handles_labels()[1])
    assert (drawing.numbers["recovery_tokens"] > 0).any()
