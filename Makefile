# Sluice: `make up` tries it, `make test` proves it.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Tests wait for Slurm more than they compute, so three of their files run at a time on two cores.
WORKERS ?= 3
# The tests sign in at a real identity provider (Node.js) with a real browser (Chromium).
NODE := $(if $(shell command -v npm),,nodejs npm)
PACKAGES := debootstrap shellcheck iproute2 python3-venv ca-certificates postgresql libfaketime chromium nginx haproxy $(NODE)
PROGRAMS := debootstrap shellcheck ip chromium npm
# The tests run their own PostgreSQL: where the package is new, it shall not make and start one for the machine.
NO_CLUSTER := /etc/postgresql-common/createcluster.d/sluice-install.conf
# … and no package shall start a service of its own here.
NO_START := /usr/sbin/policy-rc.d

.DEFAULT_GOAL := help
.PHONY: help up down test check format docs acceptance chaos bench clean system

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: $(READY) ## Bring up a Slurm cluster and Sluice, start a model server as a job, ask it a question
	@$(BIN)/sluice up

down: $(READY) ## End everything that `make up` started
	@$(BIN)/sluice down

test: $(READY) check ## Run the checks and every test but the long acceptance runs
	$(BIN)/pytest -m "not acceptance" --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

check: $(READY) ## Formatting, lint, types, floors
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

format: $(READY) ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY) ## Generate the reference pages from the code
	$(BIN)/python -m gateway.cli.reference

acceptance: $(READY) ## The long runs: vLLM and PyTorch in real jobs
	$(BIN)/pytest -m acceptance

chaos: $(READY) ## Break things on real clusters, see that nothing is lost; FAULTS="a b" plays some, see docs/reference/faults.md
	$(BIN)/python -m tests.faults.run $(FAULTS)
	$(if $(FAULTS),,$(BIN)/python -m tests.faults.plane)

bench: $(READY) ## Measure against the raw thing; prints a table, writes .benchmarks/
	$(BIN)/python -m benchmarks.run

clean: ## Remove the environment and caches
	rm -rf $(VENV) dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks .import_linter_cache

# The environment is made anew when what it is made of changes.
$(READY): pyproject.toml constraints.txt | system
	@echo "Setting up the Python environment in $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[server,ssh,monitoring,openai,postgresql]' --requirement requirements-dev.txt
	@touch $@

# Programs of the system that the local cluster and the tests use. Asked for only where one is missing.
system:
	@for program in $(PROGRAMS); do command -v $$program >/dev/null || missing=1; done; \
	$(PYTHON) -c 'import ensurepip' 2>/dev/null || missing=1; \
	ls /usr/lib/postgresql/*/bin/initdb /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 || missing=1; \
	ls /usr/sbin/nginx /usr/sbin/haproxy >/dev/null 2>&1 || missing=1; \
	if [ -n "$$missing" ]; then \
		if [ "$$(id -u)" != 0 ]; then echo "Missing programs. As root: apt-get install $(PACKAGES)" >&2; exit 1; fi; \
		echo "Installing $(PACKAGES) ..."; \
		export DEBIAN_FRONTEND=noninteractive; \
		mkdir -p $(dir $(NO_CLUSTER)) && echo 'create_main_cluster = false' >$(NO_CLUSTER); \
		[ -e $(NO_START) ] || { printf '#!/bin/sh\nexit 101\n' >$(NO_START); chmod 755 $(NO_START); ours=$(NO_START); }; \
		trap 'rm -f $(NO_CLUSTER) $$ours' EXIT; \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends $(PACKAGES) >/dev/null; \
	fi
