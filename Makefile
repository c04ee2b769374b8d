# `make demo` and `make test` need nothing but python3 (3.11 or newer); each makes .venv first.
PYTHON ?= python3
BIN := .venv/bin
DATA := $(wildcard ../shared/data)
export RLKD_DATA ?= $(if $(DATA),$(abspath $(DATA)))

# Two tests of one thread each are done sooner than two of two threads.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-long lint release-check matrix licences clean

demo: .venv/installed
	$(BIN)/rlkd demo

test: .venv/installed
	$(BIN)/pytest -q -n 2 --dist worksteal -m "not long and not gpu"

test-long: .venv/installed
	$(BIN)/pytest -q -n 2 --dist loadgroup -m "long and not gpu"

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/rlkd validate

# The wheel and the sdist, tested where no repository is; a fresh environment takes some 6 GB.
release-check: .venv/installed
	$(BIN)/python .ci/release.py

# Each Python and torch that this machine can install: many downloads.
matrix: .venv/installed
	$(BIN)/python .ci/release.py --matrix

licences: .venv/installed
	$(BIN)/python .ci/licences.py

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv runs
