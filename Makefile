# make quickstart | test | lint | docs | bench | results. Each makes the virtual environment first; nothing else has to be installed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: quickstart test lowest lint docs bench results

quickstart: $(VENV)/installed
	$(BIN)/har-prune run quickstart

# One thread a worker: two workers share two cores. HAR_PRUNE_TEST_DEVICE=cuda runs the part that any device can run, there.
test: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

# The suite with the lowest versions pyproject.toml allows, in an environment of its own.
lowest:
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/pip install -c constraints-lowest.txt -e '.[test]' hatchling
	OMP_NUM_THREADS=1 $(VENV)-lowest/bin/python -m pytest -n 2

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The site, in site/; a warning is an error.
docs: $(VENV)/installed
	$(BIN)/mkdocs build --strict

# It needs CIFAR-10 and the converted ResNet-56: see benchmarks/reproduce.md.
bench: $(VENV)/installed
	$(BIN)/python benchmarks/scoring.py $(BENCH)
	$(BIN)/python benchmarks/scoring.py --memory $(BENCH)

# Every table and picture of the results again, from the committed records; nothing is trained.
results: $(VENV)/installed
	$(BIN)/python benchmarks/results.py

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -c constraints.txt -e '.[dev]'
	touch $@
