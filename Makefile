# Every target sets up its own environment in .venv; nothing else on the machine is touched.
PYTHON ?= python3.11
# The versions to install. CONSTRAINTS= takes the newest that pyproject.toml allows.
CONSTRAINTS ?= constraints.txt
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
LOWEST := .venv-lowest
PEERS := $(CURDIR)/.venv-peers
# Percent of lines and branches. A part of the tests reaches this; raise it to what a whole run prints.
COVERAGE_FLOOR := 56
PINNED := $(addprefix --constraint ,$(CONSTRAINTS))

.PHONY: demo test peers cluster check fuzz format docs coverage lowest wheel hooks clean

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@command -v $(PYTHON) >/dev/null || { echo "maskrestore needs Python 3.11 or newer; set PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PINNED) --editable '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/maskrestore demo --out demo-report

# Two processes share the tests, a thread each. Services measure time, so their tests run alone.
SERVICES := tests/gateway tests/distributed tests/cluster tests/fuzzing
test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile $(addprefix --ignore=,$(SERVICES))
	$(BIN)/python -m pytest $(SERVICES)

# The tests with real peers: MLServer, tritonclient, schemathesis, moto's S3, in environments of their own that pip makes.
peers: $(STAMP)
	MASKRESTORE_TEST_MLSERVER=$(PEERS)/mlserver MASKRESTORE_TEST_SCHEMATHESIS=$(PEERS)/schemathesis \
		MASKRESTORE_TEST_MOTO=$(PEERS)/moto \
		$(BIN)/python -m pytest -m mlserver

# The tests with Ray clusters that take minutes. Several nodes, each in a network namespace of its own, need root and iproute2.
cluster: $(STAMP)
	MASKRESTORE_TEST_CLUSTER=1 $(BIN)/python -m pytest -m cluster

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_imports.py tests/test_project.py
	$(BIN)/zensical build --strict

# Random files, models, answers and command lines for ten minutes, or FUZZ="--seconds 60 --only pictures --seed 3".
FUZZ ?= --seconds 600
fuzz: $(STAMP)
	PYTHONPATH=tests $(BIN)/python -m fuzzing $(FUZZ)

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Builds the site into site/; warnings are errors.
docs: $(STAMP)
	$(BIN)/python -m scripts.docs
	$(BIN)/zensical build --strict

# The tests with their coverage, which slows them down.
coverage: $(STAMP)
	$(BIN)/python -m pytest --cov --cov-report=term --cov-fail-under=$(COVERAGE_FLOOR)

# The tests with the lowest version of each direct dependency that pyproject.toml allows.
lowest:
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST) --resolution lowest-direct --editable '.[test]'
	$(LOWEST)/bin/python -m pytest --ignore tests/docs

# Builds the source distribution and the wheel, and tries the wheel in a bare environment.
wheel: $(STAMP)
	rm -rf build dist
	$(BIN)/python -m build
	$(BIN)/python scripts/check_wheel.py dist/*.whl $(PINNED)

# Runs the checks of .pre-commit-config.yaml before each commit.
hooks: $(STAMP)
	$(BIN)/pre-commit install

clean:
	rm -rf $(VENV) $(LOWEST) $(PEERS) build dist site src/*.egg-info demo-report .coverage
