# Each target does its own set-up; a second call installs nothing.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || echo python3.11)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
TWO := -n 2 --no-loadscope-reorder
# what starts datasites, crashes, jails or long trainings is left to `make test`
SLOW := tests/faults tests/attacks/test_tampering.py tests/test_worlds.py tests/test_outcome_worlds.py \
	$(patsubst %,tests/models/test_%.py,figures breast_cancer cold_films) \
	$(wildcard tests/institution/test_jail*.py) $(patsubst %,tests/institution/test_%.py, \
	audit_commands doctor kept_own ledger pause quality revoke_instants selfattack store two_runs)

.PHONY: help setup demo lab test test-fast coverage check clean lock pair

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP)  ## make .venv and install every pinned package

$(STAMP): requirements.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "fedrec needs Python 3.11: install it, or call make PYTHON=/path/to/python3.11"; exit 2; }
	@test -x $(BIN)/python || { echo "making $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing the pinned packages (two to five minutes at the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(STAMP)  ## the whole story on four real datasites
	@$(BIN)/fedrec demo

lab: $(STAMP)  ## four datasites and JupyterLab on the first notebook; Ctrl-C ends everything
	@$(BIN)/fedrec lab

test: $(STAMP)  ## every test, two at a time
	@$(BIN)/python -m pytest $(TWO)

test-fast: $(STAMP)  ## the quick tests: no datasites, crashes or jails
	@$(BIN)/python -m pytest $(TWO) -m "not sites" $(addprefix --ignore=,$(SLOW))

DEFENCES := gate permit ledger guard
coverage: $(STAMP)  ## every branch of gate, permit, ledger and guard is tested, or it fails
	@$(BIN)/python -m pytest -q -p no:cacheprovider --cov-branch --cov-report=term-missing --cov-fail-under=100 \
	  $(DEFENCES:%=--cov=fedrec.institution.%) $(foreach part,$(DEFENCES),$(wildcard tests/institution/test_$(part)*.py)) \
	  $(addprefix tests/institution/test_,pause.py turns.py sums.py spent.py mock_noise.py unmask.py)

check: $(STAMP)  ## style, types, layers, notebook pairs
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python notebooks/pair.py --check

pair: $(STAMP)  ## write notebooks/*.ipynb from notebooks/src/*.py
	@$(BIN)/python notebooks/pair.py

lock: $(STAMP)  ## make requirements.txt from requirements.in, in an environment of its own
	@rm -rf $(VENV)-lock && $(PYTHON) -m venv $(VENV)-lock
	@$(VENV)-lock/bin/python -m pip install --quiet -r requirements.in
	@{ echo "# Made by make lock from requirements.in; every package pinned."; \
	   $(VENV)-lock/bin/python -m pip freeze --all --exclude pip --exclude wheel | sed 's/+cpu$$//'; } > requirements.txt
	@rm -rf $(VENV)-lock

clean:  ## remove what make and the tests made
	rm -rf $(VENV) .lab .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
