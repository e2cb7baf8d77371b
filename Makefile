# Two commands: `make demo` and `make test`. Each does all its own set-up in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo test shell lab app figures findings lint format browser-test older-test clean help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## */\1\t/' | expand -t 14

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "claw needs Python 3.11 or newer; $(PYTHON) is older. Run: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "Making a virtual environment failed. On Debian and Ubuntu: apt install python3-venv"; rm -rf $(VENV); exit 1; }

# torch first and by its exact version: see constraints.txt
$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing claw into $(VENV) (once, some minutes)"
	@$(PIP) "$$(grep '^torch==' constraints.txt)"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	@$(PIP) --editable '.[test]'
	@touch $@

demo: $(VENV)/.installed  ## set up, fetch SmolLM2-135M, compress it, measure it, fit its laws: about fifteen minutes
	@$(BIN)/claw fetch smollm2-135m wikipedia-train wikipedia-heldout tasks
	@$(BIN)/claw run params/quickstart.yaml

test: lint  ## set up and run style, types and all tests
	@$(BIN)/claw fetch smollm2-135m wikipedia-train wikipedia-heldout tasks
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

shell: $(VENV)/.installed  ## open a shell in which claw, papermill and python are those of .venv; exit leaves it
	@echo "claw is ready in this shell: try 'claw models'. 'exit' leaves it. In a shell of yours: . $(BIN)/activate"
	@. $(BIN)/activate && exec "$${SHELL:-/bin/sh}"

NO_NEWS := $(VENV)/share/jupyter/lab/settings/overrides.json

$(NO_NEWS): $(VENV)/.installed  # else JupyterLab asks whether it may fetch news
	@mkdir -p $(@D) && echo '{"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": false}}' > $@

lab: $(NO_NEWS)  ## open JupyterLab on the start page; LAB_OPTIONS="--no-browser --port=8890" are handed on
	@case "$$(id -u) $(LAB_OPTIONS)" in *--allow-root*|[!0]*) ;; *) \
	  echo "JupyterLab does not run as root. Work as another user, or, in a container: make lab LAB_OPTIONS=--allow-root"; exit 1;; esac
	@$(BIN)/jupyter lab $(LAB_OPTIONS) --ServerApp.ip=127.0.0.1 --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/notebooks/00_start.ipynb \
	  --LabApp.news_url=None --LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate

$(VENV)/.installed-app: $(VENV)/.installed
	@$(PIP) --editable '.[app]'
	@touch $@

app: $(VENV)/.installed-app  ## open the law explorer as a page without code, for whoever has the token in its address
	@$(BIN)/voila notebooks/51_explorer.ipynb --Voila.ip=127.0.0.1 --token $(APP_OPTIONS)

figures: $(VENV)/.installed  ## draw the figures and tables of results/reference.csv into figures/
	@mkdir -p runs/paper
	@$(BIN)/papermill $$(test -t 2 || echo --no-progress-bar) --kernel python3 notebooks/70_paper_figures.ipynb runs/paper/70_paper_figures.ipynb -p table results/reference.csv -p out .
	@$(BIN)/python -c 'from claw import figures, laws; \
	  figures.first_figure(laws.read_points(laws.read("results/reference.csv"))).save("figures")'
	@$(BIN)/claw foretell results/reference.csv --score results/foretold/qwen2.5-coder-1.5b-second.csv --figures figures

findings: $(VENV)/.installed  ## write laws, verdicts and advice of results/reference.csv beside it
	@$(BIN)/claw findings results/reference.csv --study params/reference.yaml --out results

lint: $(VENV)/.installed-test  ## check style and types without changing anything
	@$(BIN)/python -m ruff check . && $(BIN)/python -m ruff format --check . && $(BIN)/python -m mypy

format: $(VENV)/.installed-test  ## bring code and notebooks into shape
	@$(BIN)/python -m ruff format . && $(BIN)/python -m ruff check --fix .

browser-test: $(VENV)/.installed-test  ## open the notebooks and pages in Chromium, click and look (needs Chromium; minutes)
	@$(BIN)/python -m pytest -m browser

older-test: $(VENV)/.installed-test  ## open saved checkpoints in transformers 4.57, in .venv-older (a minute)
	@test -x .venv-older/bin/python || $(PYTHON) -m venv .venv-older
	@.venv-older/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)" 'transformers==4.57.*'
	@$(BIN)/python -m pytest -m older

clean:  ## remove the environment and all runs; the cache of downloads stays
	rm -rf $(VENV) .venv-older runs build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
