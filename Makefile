.PHONY: run test test-fast test-faults test-docs docs lint bench clean
PYTHON ?= python3
BIN := .venv/bin
CONFIG ?= quickstart
# Two processes, each with one thread; the one that is through takes tests over from the other.
SIDE_BY_SIDE := --numprocesses 2 --dist worksteal

run: .venv/demo
	$(BIN)/rolora run $(CONFIG)

test: .venv/dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports --no-logo
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not faults and not docs"

test-fast: .venv/dev
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow and not faults and not docs"

test-faults: .venv/dev
	$(BIN)/python -m pytest -m faults

test-docs: .venv/dev
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m docs

docs: .venv/dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: .venv/dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports --no-logo

bench: .venv/dev
	$(BIN)/python -m benchmarks

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[demo]"
	touch $@

.venv/dev: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,flower,simulation]"
	touch $@ .venv/demo

clean:
	rm -rf .venv runs site
