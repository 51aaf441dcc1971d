# One command a line; `make` alone lists them. Needs python3 >= 3.11 and nothing else.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all check docs screenshots bench clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-9s %s\n", $$1, $$2}'

# torch comes with everything else in one go, so that pip takes the pinned build and no other.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	@echo "installing into .venv; torch alone is some GB, so this takes minutes"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

install: $(INSTALLED)  ## make .venv with the tested versions

demo: $(INSTALLED)  ## the whole pipeline on tiny models, to a report
	$(BIN)/limbeck run recipes/demo.yaml

test: $(INSTALLED)  ## the fast tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow"

test-all: $(INSTALLED)  ## all tests, the slow ones too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

check: $(INSTALLED)  ## style, types, import direction, and docs that match the code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python docs/render.py --check

docs: $(INSTALLED)  ## render the pages that come from code and results
	$(BIN)/python docs/render.py

screenshots: $(INSTALLED)  ## the pictures in docs/images, from the demo's run; needs Chromium
	$(BIN)/python docs/screenshots.py work/runs/demo

bench: $(INSTALLED)  ## every script in benchmarks/, one after the other
	@set -e; for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python "$$script"; done

clean:  ## remove the environment and caches; work folders stay
	rm -rf .venv build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -rf src/*.egg-info
