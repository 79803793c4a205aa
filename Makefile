# make serve   the API on port 3001 with real models, from a bare checkout
# make test    every test that needs no GPU (< 10 min on two cores)
# make check   what to run before each commit (< 2 min)
#
# TORCH   the requirement that pip installs as torch, with pip options if needed; by default the build that pip chooses.
#         Another build: make serve TORCH="torch==2.13.0 --index-url <the index of that build>"

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= $(shell command -v python3.11 || command -v python3)
TORCH ?= torch==2.13.0
# Without dependencies: spandrel asks for torchvision, whose usual build does not go with every build of torch, and of
# its architectures only two need it, which are not used (pipelines/upscaling/upscaler.py). It does need einops.
UPSCALERS := "spandrel>=0.4.2,<0.5" "einops>=0.8,<0.9"
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CLIENTS := .venv-clients
CLIENTS_INSTALLED := $(CLIENTS)/.installed
ARGS ?=

# One process per core with one torch thread each, also in the servers that tests start: threads that share a core wait
# for each other.
PYTEST := OMP_NUM_THREADS=1 AGENTNAME_TORCH_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadscope --no-loadscope-reorder

.PHONY: help serve test check format models install clients clean

help:
	@sed -n 's/^# \(make .*\)/  \1/p' Makefile

serve: install models
	@$(BIN)/agentname serve $(ARGS)

test: install models clients
	$(PYTEST) -m "not gpu" $(ARGS)

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(PYTEST) -m "not gpu and not slow and not live" -q $(ARGS)

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Fetches and verifies the weights that are not in the checkout, and converts them once into a cache for all checkouts.
models: install
	@$(BIN)/python scripts/fetch_models.py

install: $(INSTALLED)

# torch is installed first and alone: together with the rest, pip may choose another build of it, gigabytes larger.
$(INSTALLED): pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed (or: make PYTHON=/path/to/python)"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than Python 3.11"; exit 1; }
	@test -x $(BIN)/python || { echo "creating $(VENV)"; "$(PYTHON)" -m venv $(VENV); }
	@echo "installing torch (once)"
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on $(TORCH)
	@echo "installing the rest (once)"
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable ".[dev]"
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps $(UPSCALERS)
	@touch $@

# The client libraries that tests run against the server, in an environment without torch; Node's only where Node is.
clients: $(CLIENTS_INSTALLED)

$(CLIENTS_INSTALLED): tests/clients/requirements.txt tests/clients/package.json
	@echo "installing the clients that the tests use (once)"
	@test -x $(CLIENTS)/bin/python || "$(PYTHON)" -m venv $(CLIENTS)
	@$(CLIENTS)/bin/python -m pip install --disable-pip-version-check --quiet -r tests/clients/requirements.txt
	@cp tests/clients/package.json $(CLIENTS)/
	@if command -v npm >/dev/null; then cd $(CLIENTS) && npm install --no-package-lock --no-audit --no-fund --silent; \
		else echo "no Node: the tests of its clients will be skipped"; fi
	@touch $@

clean:
	rm -rf $(VENV) $(CLIENTS) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
