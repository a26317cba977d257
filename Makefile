# Two commands set everything up: `make install`, then `make sweep`. `make help` lists the rest.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.DEFAULT_GOAL := help

# The first of these that runs. The lock is made for Python 3.11 on Linux.
PYTHON ?= $(shell for python in python3.11 python3; do $$python -c "" 2>/dev/null && echo $$python && break; done)
SPACE ?= search_spaces/repa.yaml
ARGS ?=
PIP := .venv/bin/python -m pip --disable-pip-version-check

.PHONY: help install sweep test lint types contracts tests coverage chaos fuzz e2e lock reference format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

install: .venv/.installed ## make .venv with every locked package and the project

# A stamp is written last. An install that was cut short has none, and the same command starts it afresh from pip's cache.
# The last step is for CUDA builds of torch, which pin libraries of their own that the lock leaves out; a CPU build has none.
.venv/.locked: requirements.lock
	@"$(PYTHON)" -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null || { echo "prx-sweeps needs Python 3.11 or newer, found '$(PYTHON)': make install PYTHON=/path/to/python3.11" >&2; exit 1; }
	"$(PYTHON)" -m venv --clear .venv
	$(PIP) install --no-deps --requirement requirements.lock
	$(PIP) install --quiet --constraint requirements.lock torch
	touch $@

.venv/.installed: .venv/.locked pyproject.toml
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	touch $@

sweep: install ## run, or resume, a search space: SPACE=search_spaces/repa.yaml ARGS="--profile laptop"
	.venv/bin/python sweeps/run.py $(SPACE) $(ARGS)

test: lint types contracts tests ## everything that continuous integration runs

lint: install ## ruff: rules and format
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

types: install ## pyright
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 .venv/bin/pyright --pythonpath .venv/bin/python

contracts: install ## import-linter: sweeps -> prx_model, never back
	.venv/bin/lint-imports

tests: install ## pytest, on two cores; ARGS="-k depth" selects
	.venv/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

coverage: ## the same, and the lines that no test runs
	@$(MAKE) --no-print-directory tests ARGS='--cov --cov-report=term $(ARGS)'

chaos: install ## kill processes of a small sweep at random, 28 times over, and compare; an hour, resumable in build/chaos
	.venv/bin/python benchmarks/chaos.py --work build/chaos --cache build/chaos/cache $(ARGS)

fuzz: install ## ten thousand generated search-space files: each a space, or one line of what is wrong
	.venv/bin/python benchmarks/space_files.py $(ARGS)

e2e: install ## ray up, a sweep with lost nodes, ray down, on hosts made of namespaces (root; docs/e2e.md); logs in build/e2e
	.venv/bin/python -m tests.e2e $(ARGS)

reference: install ## write docs/search-space.md from the dataclasses of the settings
	.venv/bin/python tools/space_reference.py

format: install ## let ruff rewrite what it can
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

# In an environment of its own, so that a lock that no longer installs can still be replaced.
lock: ## write requirements.lock from pyproject.toml; UPGRADE=1 takes the newest releases
	"$(PYTHON)" -m venv --clear build/lock
	build/lock/bin/python -m pip --disable-pip-version-check install --quiet packaging
	build/lock/bin/python tools/lock.py $(if $(UPGRADE),--upgrade)

clean: ## remove .venv and what tools leave behind; results and cache stay
	rm -rf .venv build *.egg-info .coverage .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find prx_model sweeps tests tools -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
