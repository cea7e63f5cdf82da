# Everything here works on a machine with Python 3.11, make and git; the rest is installed into .venv/ (and, for the
# tests, PostgreSQL, Redis and RabbitMQ by apt-get where we may).

BIN := .venv/bin
WORKERS ?= 2
ARGS ?=
PAYLOADS := $(wildcard ../shared/payloads/github)
PYTHON_DIRS := src tests scripts $(wildcard examples benchmarks)

.DEFAULT_GOAL := help
.PHONY: help demo test lint style types format unit bench docs services lock clean installed installed-dev oracles pytest servers

help:  ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: installed  ## Play a day of an application against the offline sandbox (ARGS=--json for data)
	@$(BIN)/moorline demo $(if $(PAYLOADS),--github-payloads $(PAYLOADS)) $(ARGS)

# mypy has one core to itself for more than a minute: it runs beside the tests, and leaves them what they want of both. So
# does the installation of what only the last of the tests ask.
test: installed-dev servers  ## Every check there is: lint, types, import rules, all tests with real servers
	@$(MAKE) --no-print-directory style
	@$(MAKE) --no-print-directory -j 3 oracles types pytest
	@echo "== all green"

lint: style types  ## ruff, import-linter, mypy --strict

style: installed-dev
	@echo "== ruff"
	@$(BIN)/ruff check --quiet $(PYTHON_DIRS)
	@$(BIN)/ruff format --quiet --check $(PYTHON_DIRS)
	@echo "== import rules"
	@$(BIN)/lint-imports --no-cache > .import-linter.log 2>&1 || { cat .import-linter.log; exit 1; }
	@tail -n 2 .import-linter.log; rm -f .import-linter.log

types: installed-dev
	@echo "== mypy --strict"
	@nice -n 10 $(BIN)/mypy

unit: oracles pytest  ## The tests alone (ARGS="-k breaker" to choose, WORKERS=0 for one process)

pytest: installed-dev servers
	@echo "== pytest, $(WORKERS) workers"
	@$(BIN)/pytest -n $(WORKERS) $(ARGS)

format: installed-dev  ## Let ruff format and mend what it can
	@$(BIN)/ruff check --quiet --fix $(PYTHON_DIRS) || true
	@$(BIN)/ruff format --quiet $(PYTHON_DIRS)

bench: installed-dev servers  ## Measure: webhooks, jobs, added time of a call, import, memory
	@$(BIN)/python -m benchmarks $(ARGS)

docs: installed-dev  ## Write the reference pages from the code
	@$(BIN)/python scripts/docs.py $(ARGS)

services: installed-dev  ## Write the typed list of services from the folder
	@$(BIN)/python scripts/services.py $(ARGS)

lock: installed-dev  ## Renew the locked requirements (needs uv)
	@scripts/lock.sh $(ARGS)

clean:  ## Remove .venv/ and all that tools left
	@rm -rf .venv .oracles build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis htmlcov .coverage .coverage.*
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

installed:
	@scripts/bootstrap.sh run

installed-dev:
	@scripts/bootstrap.sh dev

servers:
	@scripts/install-servers.sh

oracles:
	@scripts/install-oracles.sh
