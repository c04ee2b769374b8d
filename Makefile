# `make demo` and `make test` need nothing but python3 (3.11 or newer); each makes .venv first.
PYTHON ?= python3
BIN := .venv/bin
DATA := $(wildcard ../shared/data)
export RLKD_DATA ?= $(if $(DATA),$(abspath $(DATA)))

# Two tests of one thread each are done sooner than two of two threads.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test test-long test-real lint docs links notebook release-check matrix licences clean

demo: .venv/installed
	$(BIN)/rlkd demo

test: .venv/developed
	$(BIN)/pytest -q -n 2 --dist worksteal -m "not long and not gpu"

test-long: .venv/developed
	$(BIN)/pytest -q -n 2 --dist loadgroup -m "long and not gpu"

# Those of `make test` that skip without RLKD_DATA.
test-real: .venv/developed
	$(BIN)/pytest -q -m "real and not long and not gpu"

lint: .venv/developed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/rlkd validate

# From nothing: pages are made from the code, whose changes Sphinx does not see.
docs: .venv/developed
	rm -rf build/docs
	$(BIN)/python -m sphinx -W --keep-going -q -c docs . build/docs

# Links to other sites, where there is a network; those within are checked by `docs`.
links: .venv/developed
	rm -rf build/links
	$(BIN)/python -m sphinx -W --keep-going -q -b linkcheck -c docs . build/links

notebook: .venv/developed
	$(BIN)/python docs/execute.py

# The wheel and the sdist, tested where no repository is; a fresh environment takes some 6 GB.
release-check: .venv/developed
	$(BIN)/python .ci/release.py

# Each Python and torch that this machine can install: many downloads.
matrix: .venv/developed
	$(BIN)/python .ci/release.py --matrix

licences: .venv/developed
	$(BIN)/python .ci/licences.py

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable .
	touch $@

# With what the tests, the site and the release are made with.
.venv/developed: .venv/installed
	$(BIN)/pip install --quiet --editable ".[dev,docs]"
	touch $@

clean:
	rm -rf .venv runs build
