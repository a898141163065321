# Everything a person or a machine does with this repository. `make demo` and `make test` set themselves up.
#   PYTHON=…        which Python makes .venv (3.11 or newer)
#   PAM_NO_APT=1    never install Debian packages; what is missing is named instead
#   PYTEST_ARGS=…   replaces pytest's arguments of `make test`
#   SEED=… MINUTES=…   of the random walk of `make crash`

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# Hundreds of processes are started here: one that may not keep its compiled modules compiles all of them at each start.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?=
BIN := .venv/bin
PYTEST_ARGS ?= -n 4 --dist loadfile --no-loadscope-reorder

.PHONY: help setup js demo-deps lab-deps lab lab-down demo test crash crash-mutants check bench lock clean

help: ## what there is to make
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' Makefile

setup: .venv/.locked js ## .venv with the locked dependencies and `pam` in .venv/bin

.venv/.locked: requirements.lock pyproject.toml deploy/setup.sh
	@PYTHON='$(PYTHON)' bash deploy/setup.sh

js: .venv/.locked
	@bash deploy/setup-js.sh

demo-deps: .venv/.locked
	@$(BIN)/python -m deploy.system demo

lab-deps: .venv/.locked ## Debian packages that the tests' real servers need, installed when that is allowed
	@$(BIN)/python -m deploy.system test

lab: .venv/.locked ## every target that the lab knows, real and emulated, on loopback; LAB=DIR (default .lab), ONLY='samba redis'
	@$(BIN)/python -m deploy.lab up '$(or $(LAB),.lab)' $(ONLY)

lab-down: .venv/.locked ## stop the lab of LAB=DIR and remove its state
	@$(BIN)/python -m deploy.lab down '$(or $(LAB),.lab)'

demo: .venv/.locked demo-deps ## real targets, real rotations, on a schedule and on demand; STAY=1 leaves it running
	@STAY='$(STAY)' $(BIN)/python -m deploy.demo

test: lab-deps setup ## all tests against real servers
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

# Without a seed the table in the README is made anew; with one it is a repetition, and the table stays.
crash: lab-deps setup ## processes killed, lines cut, messages lost: the long form; SEED= MINUTES= of its random walk
	@export PAM_CRASH_FULL=1 PAM_CRASH_SEED='$(SEED)' PAM_CRASH_MINUTES='$(or $(MINUTES),10)' \
	  PAM_CRASH_RUN="run$$(date +%s)" && \
	  $(BIN)/python -m pytest -s -p no:cacheprovider tests/crash/$(if $(SEED),test_walk.py) && \
	  $(if $(SEED),true,$(BIN)/python -m tests.crash.table update)

crash-mutants: lab-deps setup ## the protocol broken on purpose: the crash suite has to notice
	@$(BIN)/python -m tests.crash.prove_mutants

check: .venv/.locked ## format, lint, types, who imports whom
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

bench: lab-deps setup ## rotations a second, beside the bare driver
	@$(BIN)/python -m tests.benchmarks.rotation

LOCK = $(BIN)/uv pip compile -q --no-config --upgrade --universal --python-version 3.11 --generate-hashes --no-header \
  --no-annotate --no-emit-index-url --no-emit-find-links

lock: .venv/.locked ## both locks anew from pyproject.toml: everything here, and what the container image runs
	@$(LOCK) --all-extras --group dev -o requirements.lock pyproject.toml
	@$(LOCK) --extra targets --group build -c requirements.lock -o deploy/requirements.lock pyproject.toml

clean: ## remove what make made
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .lab .demo .crash build ./*.egg-info \
	  tests/integration/js/node_modules
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
