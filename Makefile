# Everything runs in private environments: .venv for development, .demo for the demo.
# PYTHON may be any Python from 3.10 on.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# Users have bytecode; without it each process of the tests and benchmarks compiles kvseal anew.
unexport PYTHONDONTWRITEBYTECODE

SECONDS ?= 3600
# The tests that need no server, no process and no network, and do not search at length.
QUICK := not servers and not processes and not exhaustive and not long

.PHONY: help check quick test test-long test-simulation test-fuzz test-chaos smoke lint format hooks demo bench bench-quick wheel constraints clean

help:
	@echo "make check        the quick part, in a minute: format, lint, types, import rules, tests without servers"
	@echo "make test         everything CI checks: format, lint, types, import rules, tests"
	@echo "make test-long    the on-demand checks too, such as the million-step vector"
	@echo "make test-simulation  kvseal in a simulated world, for SECONDS=3600, with a story for what it loses"
	@echo "make test-fuzz    every parser against hostile input, for SECONDS=3600 in all; findings join the corpus"
	@echo "make   real processes, servers and faults, for SECONDS=3600; what was acknowledged has to be there"
	@echo "make test-chaos   real processes, servers and faults for SECONDS=3600: nothing acknowledged may be lost"
	@echo "make smoke        the quick tests on the oldest and the newest Python and py-key-value-aio"
	@echo "make format       format the code, and mend what ruff can mend"
	@echo "make hooks        run make check before each commit"
	@echo "make demo         a Fernet vault migrated, rotated and verified in a minute"
	@echo "make bench        all benchmarks, written to benchmarks/results/"
	@echo "make bench-quick  the ratios that CI guards"
	@echo "make wheel        build the wheel and try it in an empty environment"

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("kvseal needs Python 3.10 or newer" if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --upgrade "pip>=25.1"
	$(PIP) install --constraint constraints.txt --editable . --group dev
	@touch $@

lint: $(VENV)/ready
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Lint and tests beside each other: mypy keeps one core busy, and pytest ends on both.
check: $(VENV)/ready
	$(MAKE) --no-print-directory --jobs 2 --output-sync=target lint quick

quick: $(VENV)/ready
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "$(QUICK)"

test: lint
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-long: $(VENV)/ready
	$(BIN)/python -m pytest -m long

# Each time other seeds; a seed that breaks a promise is printed, and told by: python -m tests.simulation story SEED
test-simulation: $(VENV)/ready
	PYTHONPATH=src:. $(BIN)/python -m tests.simulation $$(date +%s) 100000000 --jobs 2 --seconds $(SECONDS)

# A finding is written into tests/fuzz/corpus, and is tried by make test from then on.
test-fuzz: $(VENV)/ready
	PYTHONPATH=src:. $(BIN)/python -m tests.fuzz --seconds $(SECONDS)

# Needs redis-server, PostgreSQL's programs and libfaketime; a small mount, where this user may have one.
test-chaos: $(VENV)/ready
	PYTHONPATH=$(CURDIR)/src:$(CURDIR) $(BIN)/python -m tests.chaos --seconds $(SECONDS)

# The sessions of noxfile.py, whose files are on the disk: make test has them in memory.
smoke: $(VENV)/ready
	PYTEST_DEBUG_TEMPROOT=$${TMPDIR:-/tmp} $(BIN)/nox --session smoke

hooks: $(VENV)/ready
	$(BIN)/pre-commit install

demo:
	$(PYTHON) -m venv .demo/venv
	.demo/venv/bin/python -m pip --disable-pip-version-check --quiet install --constraint constraints.txt '.[disk]'
	.demo/venv/bin/python scripts/demo.py .demo

bench: $(VENV)/ready
	$(BIN)/python -m benchmarks.gate --json benchmarks/results/gate.json
	$(BIN)/python -m benchmarks.profiles --json benchmarks/results/profile.json
	$(BIN)/python -m pytest benchmarks -q --benchmark-only --benchmark-columns=median,iqr,rounds \
	    --benchmark-json benchmarks/results/suite.json
	$(BIN)/python -m benchmarks.recode --million --json benchmarks/results/recode.json
	$(BIN)/python -m benchmarks.beside --json benchmarks/results/beside.json
	$(BIN)/python -m benchmarks.calibration --json benchmarks/results/calibration.json
	$(BIN)/python -m benchmarks.report

bench-quick: $(VENV)/ready
	$(BIN)/python -m benchmarks.gate --quick
	$(BIN)/python -m benchmarks.recode --quick

wheel: $(VENV)/ready
	rm -rf dist build/wheel-venv
	$(BIN)/python -m build --wheel
	$(PYTHON) -m venv build/wheel-venv
	build/wheel-venv/bin/python -m pip --disable-pip-version-check --quiet install --constraint constraints.txt "$$(ls dist/*.whl)[disk]"
	build/wheel-venv/bin/python scripts/demo.py build/wheel-demo
	build/wheel-venv/bin/vaultctl --version

# Run it with PYTHON=python3.10: what the oldest Python can install, the newer ones can too.
constraints:
	rm -rf build/constraints-venv
	$(PYTHON) -m venv build/constraints-venv
	build/constraints-venv/bin/python -m pip --quiet install --upgrade "pip>=25.1"
	build/constraints-venv/bin/python -m pip --quiet install --editable . --group dev
	build/constraints-venv/bin/python -m pip freeze --exclude-editable --exclude pip > constraints.txt

clean:
	rm -rf $(VENV) .nox .demo build dist
