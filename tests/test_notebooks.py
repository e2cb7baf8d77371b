"""Notebooks are thin, clean in git, documented, and each runs through papermill alone."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import papermill
import pytest
from papermill.exceptions import PapermillExecutionError

from claw.laws import published, simulate
from claw.laws.simulate import Design

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
assert NOTEBOOKS


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request):
    return nbformat.read(request.param, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parameters(notebook):
    (cell,) = [cell for cell in code(notebook) if "parameters" in cell.metadata.get("tags", ())]
    return cell


def test_it_is_stripped_and_valid(notebook):
    nbformat.validate(notebook)
    assert all(not cell.outputs and cell.execution_count is None for cell in code(notebook))
    assert len({cell.id for cell in notebook.cells}) == len(notebook.cells)


def test_it_is_thin(notebook):
    assert len(code(notebook)) <= 15
    for cell in code(notebook):
        tree = ast.parse("\n".join(line for line in cell.source.splitlines() if not line.startswith(("%", "!"))))
        kinds = (ast.FunctionDef, ast.ClassDef, ast.Lambda, ast.AsyncFunctionDef)
        assert not any(isinstance(node, kinds) for node in ast.walk(tree)), cell.source


def test_each_parameter_has_a_type_and_a_comment(notebook):
    for line in parameters(notebook).source.splitlines():
        assert ":" in line.split("=")[0] and "  # " in line, line


def test_it_begins_with_a_title_and_a_question(notebook):
    first = notebook.cells[0]
    assert first.cell_type == "markdown" and first.source.startswith("# ") and "?" in first.source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_parameters_are_what_the_package_accepts(path):
    inferred = papermill.inspect_notebook(str(path))
    assert inferred and all(entry["help"] for entry in inferred.values())


def run(name, tmp_path, **given):
    options = dict(kernel_name="python3", progress_bar=False, cwd=tmp_path)
    return papermill.execute_notebook(FOLDER / f"{name}.ipynb", tmp_path / "out.ipynb", parameters=given, **options)


def test_compress_runs_from_papermills_command_line(folder_model, train_text, heldout_text, tmp_path):
    out = tmp_path / "out.ipynb"
    texts = dict(calibration=train_text, calibration_tokens=512, calibration_length=64, heldout=heldout_text)
    given = dict(model=folder_model, method="flap+ridge", heldout_tokens=512, context=64, run=tmp_path / "run", **texts)
    options = [part for item in given.items() for part in ("-p", *map(str, item))]
    command = [sys.executable, "-m", "papermill", str(FOLDER / "10_compress.ipynb"), str(out), *options]
    command += ["-y", "ratios: [0.25, 0.5]"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    pictures = [o for cell in code(nbformat.read(out, 4)) for o in cell.outputs if "image/png" in o.get("data", {})]
    assert len(pictures) == 2
    assert len(list((tmp_path / "run" / "checkpoints").glob("*/model.safetensors"))) == 2


def shown(notebook):
    """Everything that the cells of an executed notebook show, as text."""
    data = [output.get("data", {}) for cell in code(notebook) for output in cell.outputs]
    return "\n".join(str(shown_as.get("text/html", shown_as.get("text/plain", ""))) for shown_as in data)


def test_the_start_page_runs_with_and_without_results(tmp_path):
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "params").mkdir()
    assert "make demo" in shown(run("00_start", tmp_path))
    (tmp_path / "runs").mkdir()
    simulate.simulated_table(Design(models=1), simulate.TRUTHS).to_csv(tmp_path / "runs" / "made.csv", index=False)
    assert "runs/made.csv" in shown(run("00_start", tmp_path))


def test_the_start_page_leads_to_every_notebook():
    text = "\n".join(cell.source for cell in nbformat.read(FOLDER / "00_start.ipynb", 4).cells)
    for path in NOTEBOOKS:
        assert path.stem == "00_start" or f"[{path.stem}]({path.name})" in text, path.stem


def test_links_between_notebooks_lead_somewhere(notebook):
    for cell in notebook.cells:
        for target in re.findall(r"\]\(([^)#:]+\.ipynb)\)", cell.source):
            assert (FOLDER / target).is_file(), target


def test_the_tour_runs_without_a_browser(folder_model, train_text, heldout_text, tmp_path):
    texts = dict(calibration=train_text, calibration_tokens=256, heldout=heldout_text, heldout_tokens=256, context=64)
    out = run("00_tour", tmp_path, model=folder_model, words=3, methods=["random", "wanda-sp+ridge"], **texts)
    assert shown(out).count("Your turn") == 5 and "L(r)" not in shown(out) and "10 % more loss" in shown(out)


def test_one_model_is_made_smaller(folder_model, train_text, heldout_text, tmp_path):
    texts = dict(calibrate=train_text, calibration_tokens=512, heldout=heldout_text, heldout_tokens=512, length=64)
    out = run("05_one_model", tmp_path, model=folder_model, out=str(tmp_path / "small"), words=3, dtype="float32", **texts)
    assert "held-out loss" in shown(out) and "claw say" in shown(out)
    assert (tmp_path / "small" / "model.safetensors").is_file()


@pytest.mark.parametrize("table", ["", "runs/none.csv"])
def test_the_explorers_page_without_a_table_says_what_to_run(table, tmp_path):
    out = run("51_explorer", tmp_path, table=table)
    assert "widget-view" in str(code(out)[-1].outputs)
    assert "make demo" in str(out.metadata.widgets)


@pytest.mark.parametrize("name", ["50_laws", "60_guide"])
def test_without_a_table_a_notebook_says_what_to_run(name, tmp_path):
    with pytest.raises(PapermillExecutionError, match="make demo"):
        run(name, tmp_path, table="runs/none.csv")
    (said,) = [o for cell in code(nbformat.read(tmp_path / "out.ipynb", 4)) for o in cell.outputs if o.output_type == "error"]
    assert "Traceback" not in "".join(said.traceback) and "line " not in "".join(said.traceback)


def test_the_guide_answers_for_half_of_the_largest_model_before_it_shows_coefficients(tmp_path):
    made = simulate.simulated_table(Design(models=1), simulate.TRUTHS).assign(model="one", parameters0=2e8)
    made.to_csv(tmp_path / "made.csv", index=False)
    out = run("60_guide", tmp_path, table=str(tmp_path / "made.csv"), out=str(tmp_path / "guide"), draws=100)
    page = shown(out)
    assert "ithin 100 M parameters" in page and page.index("100 M parameters") < page.index("nominal ratio r, 95% intervals")
    assert (tmp_path / "guide" / "advice.json").is_file()
    assert "claw-unseen" in page and "Set unseen = 7e9" in "".join(
        str(o.get("text", "")) for cell in code(out) for o in cell.outputs
    )


def test_the_meta_analysis_runs(tmp_path):
    table = published.read_published()
    some = table[table["paper"].isin(["slicegpt", "shortened-llama", "svd-llm-v2", "flap", "nirvana"])]
    some.to_csv(tmp_path / "some.csv", index=False)
    out = run("55_meta_analysis", tmp_path, table=str(tmp_path / "some.csv"), ours="", out=str(tmp_path / "meta"))
    assert sum("image/png" in o.get("data", {}) for cell in code(out) for o in cell.outputs) == 3
    assert "losses of" in str(code(out)[3].outputs) and (tmp_path / "meta" / "claims.csv").is_file()


def test_help_reads_like_a_man_page():
    command = [sys.executable, "-m", "papermill", "--help-notebook", str(FOLDER / "10_compress.ipynb")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for words in ("method: str", "compression method", "ratios: list", "fractions to remove"):
        assert words in said


@pytest.mark.parametrize(
    ("given", "message"),
    [({"metod": "magnitude"}, "did you mean 'method'|method"), ({"ratios": [1.0]}, "ratios"), ({"seed": "1e-4"}, "seed")],
)
def test_wrong_parameters_stop_at_the_first_cell(given, message, tmp_path, own_cache):
    with pytest.raises(PapermillExecutionError, match=message) as raised:
        run("10_compress", tmp_path, run=str(tmp_path / "run"), **given)
    assert raised.value.ename.endswith("InputError")
    assert not (tmp_path / "run").exists() and not own_cache.exists()
