# Two commands are enough: make demo, make test. Both make .venv first, and a second run goes straight to work.
PYTHON ?= python3
BIN := .venv/bin
PROCESSES ?= auto
# compiled files are kept: tests start many processes, and pytest rewrites each module of tests
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test pytest coverage test-ui test-gpu screenshots test-slow lint style types docs testbed bench bench-scale bench-gpu

demo: .venv/user
	$(BIN)/unmemorize demo

# types are checked while the tests run: mypy keeps one core busy, and the other one would wait
test: style .venv/browser
	$(MAKE) --no-print-directory --jobs=2 types pytest

# one thread for each process: tiny models gain nothing from more, and two processes with two threads each would fight
pytest: .venv/developer
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(PROCESSES) --dist worksteal

coverage: .venv/developer .venv/browser
	OMP_NUM_THREADS=1 $(BIN)/pytest --numprocesses $(PROCESSES) --dist worksteal --cov --cov-report=term

test-ui: .venv/developer .venv/browser
	$(BIN)/pytest -m 'slow or not slow' tests/browser tests/ui

# Four processes share the card; convolutions compute in whole float32, as on the processor.
# Each test has a line of its own, and failures are printed at once: time on a card may end early.
test-gpu: .venv/developer
	NVIDIA_TF32_OVERRIDE=0 OMP_NUM_THREADS=2 $(BIN)/pytest --numprocesses 4 --dist worksteal -p no:benchmark --verbose --tb=short tests/cuda

# all of them go to work/screenshots, to be looked at; the documentation shows a few
screenshots: demo .venv/developer .venv/browser
	mkdir -p work/screenshots
	SCREENSHOTS=work/screenshots $(BIN)/pytest -q -m 'slow or not slow' tests/browser
	for name in report-summary page-neurons page-neurons-390 page-image page-mend; do cp work/screenshots/$$name.jpg docs/images; done
	$(BIN)/python docs/tools/screenshot.py demo-run/report.html docs/images/report-mitigation.jpg

test-slow: .venv/developer
	$(BIN)/pytest -m slow

lint: style types

style: .venv/developer
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-logo

types: .venv/developer
	$(BIN)/mypy

docs: .venv/developer
	$(BIN)/python docs/tools/commands.py
	$(BIN)/mkdocs build --quiet

# a sample of the prompts; all of them, and a U-Net of full size: make bench BENCH='--all --full-size'
bench: .venv/user
	$(BIN)/python benchmarks/localization.py $(BENCH) --json work/bench.json
	$(BIN)/python benchmarks/performance.py work/bench.json
	$(BIN)/python benchmarks/costs.py work/bench.json

bench-scale: .venv/user
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/scale.py

# on a machine with a GPU
bench-gpu: .venv/user
	$(BIN)/python benchmarks/real_shapes.py --json benchmarks/records/real-shapes.json
	$(BIN)/python benchmarks/real_shapes_page.py benchmarks/records/real-shapes.json

# The bundled model from nothing; the same command resumes. Two threads are part of what makes it deterministic.
testbed: .venv/testbed
	OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE GOMP_SPINCOUNT=0 $(BIN)/python -m training $(WORK)

.venv/testbed: .venv/user
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[testbed]'
	touch $@

.venv/user: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

.venv/developer: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@ .venv/user

# Debian's Chromium, for the tests that open pages; where it cannot be installed, they are skipped (in CI that is a failure)
.venv/browser:
	mkdir -p .venv
	command -v chromium >/dev/null || { apt-get -qq update && apt-get -qq install -y chromium >/dev/null; } || true
	if command -v chromium >/dev/null; then touch $@; else echo "no chromium: tests in a browser are skipped"; fi
