# The commands to remember: deploy, drift, status, init, test, check, lab, lab-down, bench.
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
UNIT := $(BIN)/pytest tests/unit -q -n 2

.PHONY: deploy drift status ca init setup setup-dev test unit check lab lab-down bench lock

deploy: setup
	$(BIN)/pyinfra -y inventory.py deploy.py

# What differs from the settings; `make drift INVENTORY=inventory/cluster.py`.
drift: setup
	$(BIN)/python -m tasks.drift $(or $(INVENTORY),inventory.py)

# Fetches the status page of the backup host; `make status INVENTORY=inventory/cluster.py`.
status: setup
	$(BIN)/pyinfra -y $(or $(INVENTORY),inventory.py) tasks.status.fetch

# What clients verify servers with: `make -s ca >ca.pem`.
ca: setup
	@$(BIN)/python -m tasks.tls

# A repository of your own, with this one pinned in it: `make init DIR=../shop`.
init:
	@starter/init.sh "$(DIR)"

setup: $(VENV)/.ready $(VENV)/.compiled

setup-dev: $(VENV)/.ready-dev

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "python3-venv is missing: apt-get install python3-venv" >&2; exit 1; }

$(VENV)/.ready: requirements.txt | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	@touch $@

$(VENV)/.ready-dev: requirements-dev.txt $(VENV)/.ready
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@

# pyinfra tells Python not to keep what it compiles, which took 0.2 s of every run.
$(VENV)/.compiled: $(wildcard tasks/*.py tasks/*/*.py tasks/*/*/*.py backup/*.py backup/*/*.py) | $(VENV)/.ready
	@$(BIN)/python -m compileall -q tasks backup
	@touch $@

# The images are made meanwhile.
test: check
	$(BIN)/python -m tests.lab images & images=$$!; $(UNIT); unit=$$?; wait $$images && exit $$unit
# No story uses Hypothesis, which takes a second to load.
	$(BIN)/pytest tests/e2e -n 4 --dist loadgroup --no-loadscope-reorder -p no:hypothesispytest $(E2E)

unit: setup-dev
	$(UNIT)

check: setup-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict --implicit-reexport
	$(BIN)/shellcheck -s sh -S warning tasks/*/shell/*.sh backup/*/*.sh starter/*.sh starter/files/*.sh $$(grep -rl '^#!/bin/sh' tests/golden)
	$(BIN)/codespell README.md CHANGELOG.md docs starter tasks backup templates

lab: setup
	$(BIN)/python -m tests.lab up --debian12 $(or $(DEBIAN12),2) --debian13 $(or $(DEBIAN13),1)

lab-down: setup
	$(BIN)/python -m tests.lab down

# Ratios against the tools of others, into docs/benchmarks.md; `make bench BENCH="noop restart"` measures these parts.
bench: setup-dev $(VENV)-bench/.ready
	BENCH="$(BENCH)" $(BIN)/python -m tests.bench

$(VENV)-bench/.ready: tests/bench/peer/requirements.txt
	$(PYTHON) -m venv $(VENV)-bench
	$(VENV)-bench/bin/pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# Versions with hashes and no index address; run after a change of pyproject.toml.
lock:
	uv pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --no-header pyproject.toml -o requirements.txt
	uv pip compile --quiet --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --extra dev -c requirements.txt pyproject.toml -o requirements-dev.txt
