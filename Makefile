# Two commands are enough: make demo, make test. Both make .venv first, and a second run goes straight to work.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test test-slow lint bench bench-scale evaluation

demo: .venv/user
	$(BIN)/unmemorize demo

test: lint
	$(BIN)/pytest --cov --cov-report=term

test-slow: .venv/developer
	$(BIN)/pytest -m slow

lint: .venv/developer
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: .venv/user
	mkdir -p work
	$(BIN)/python benchmarks/localization.py --full-size --json work/bench.json
	$(BIN)/python benchmarks/performance.py work/bench.json

bench-scale: .venv/user
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/scale.py

evaluation: .venv/user
	$(BIN)/python benchmarks/evaluation.py

.venv/user: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/developer: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@ .venv/user
