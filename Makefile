# Every target makes .venv and installs pivad into it first, if that has not happened yet; nothing else has to be there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TABLES := table1_sota table2_msad table3_components table4_placement table5_cost table6_modalities figure3_classwise figure4_qualitative figure5_single_modality figure6_mixtures sensitivity training_size

.DEFAULT_GOAL := help
.PHONY: help install test demo bench tables answer notebooks readme lint hooks docs docs-serve dist clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

install: $(VENV)/.installed ## make .venv and install pivad with everything for development

$(VENV)/.installed: settings.ini setup.py pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "pivad needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

test: install ## run all tests: notebooks, export, reference values, command line, bad input
	$(BIN)/python -m pytest

demo: install ## train and evaluate on SimCCTV, a few minutes on two cores; writes an executed notebook
	@mkdir -p runs/demo
	$(BIN)/papermill nbs/experiments/demo.ipynb runs/demo/demo.ipynb --cwd nbs/experiments --no-log-output
	@$(BIN)/jupyter nbconvert --to html --log-level=ERROR runs/demo/demo.ipynb
	@echo
	@echo "The results, executed: runs/demo/demo.ipynb; to read in a browser: runs/demo/demo.html; the numbers: runs/demo/results.json"

bench: install ## time and memory, each against its baseline
	$(BIN)/python tests/bench.py

tables: install ## every table and figure of the paper on SimCCTV, then the report page
	$(BIN)/pivad rerun $(TABLES) --dataset simcctv --seeds 2 --workers 2
	$(BIN)/pivad report

answer: install ## does pi-VAD beat its teacher? Settings chosen on held-out videos, then five seeds, on SimCCTV
	$(BIN)/pivad rerun beats_teacher --dataset simcctv --seeds 5
	$(BIN)/pivad report

notebooks: install ## export pivad/ and run every numbered notebook in place
	$(BIN)/nbdev-export
	TQDM_DISABLE=1 $(BIN)/jupyter nbconvert --to notebook --execute --inplace --log-level=ERROR nbs/*.ipynb
	$(BIN)/nbdev-clean
	$(BIN)/python tests/readme.py

readme: install ## write README.md from nbs/index.ipynb
	$(BIN)/python tests/readme.py

lint: install ## ruff over notebooks, tests and the site's builder
	$(BIN)/ruff check

hooks: install ## git hooks of this clone: notebooks exported, cleaned and linted before each commit
	$(BIN)/pre-commit install

docs: install ## build the documentation site into _docs/, from the outputs in the notebooks
	$(BIN)/python docs/build.py

docs-serve: docs ## the same, then show it at http://127.0.0.1:3000
	$(BIN)/python -m http.server 3000 --bind 127.0.0.1 --directory _docs

dist: install ## build wheel and sdist into dist/
	$(BIN)/python -m build

clean: ## remove what building leaves; .venv stays
	rm -rf build dist *.egg-info _docs _proc .pytest_cache
