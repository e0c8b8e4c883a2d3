# `make help` lists what there is to make. Needs Python 3.11 or newer with its venv module, and nothing else.
#
#   make PYTHON=/path/to/python3     another Python than the one found (after `make clean`)
#   make PIP_ARGS='...'              further arguments for pip, such as an index with CPU builds of torch
#   make VENV=/path                  the environment somewhere else than in .venv

SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV ?= .venv
PYTHON ?=
PIP_ARGS ?=
# Further arguments for pytest, for example PYTEST_ARGS='-k phantom -x'.
PYTEST_ARGS ?=
# Arguments for the table of benchmarks, for example BENCH_ARGS='--nnunet ~/nnunet/bin/python'.
BENCH_ARGS ?=
# Two files of tests at a time; three of those marked slow, which have processes of their own and wait for them.
QUICK := -m "not slow" -n 2 --dist loadfile
SLOW := -m slow -n 3 --dist loadfile
# Arguments of the run that `make wheel-test` carries out on both engines with the installed wheel; empty: none.
WHEEL_RUN ?= --rounds 3 --local-steps 2 --sites A,G --set training.threads=1

BIN := $(VENV)/bin
# Each arm of the demonstration, in a folder of its own; a second time it continues or shows what is there.
once = @if [ -f demo/$(2)/config.yaml ] || [ -f demo/$(2)/group.yaml ]; \
	then set -- --resume demo/$(2); else set -- $(3) --out demo/$(2); fi; \
	echo "amos-fl $(1) $$*"; $(BIN)/amos-fl $(1) "$$@"
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock $(PIP_ARGS)

# One stamp per set of packages, newer than what it was installed from: a second `make` installs nothing.
PYTHON_READY := $(VENV)/.python-ready
RUN_READY := $(VENV)/.run-ready
DEV_READY := $(VENV)/.dev-ready

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | while IFS=$$'\t' read -r target what; do \
		printf '  make %-16s %s\n' "$$target" "$$what"; done

.PHONY: install
install: $(RUN_READY) ## The environment with amos-fl and what the tests need; the other targets make it, too

.PHONY: dev
dev: $(DEV_READY) ## The same with what the checks and the documentation need

.PHONY: demo
demo: $(RUN_READY) ## A federation, its pooled and its local counterparts, and what they say (2 cores, minutes)
	$(call once,simulate,federated,--strategy fedavg)
	$(call once,centralized,pooled,--like demo/federated)
	$(call once,local,alone,--like demo/federated)
	@echo "amos-fl compare demo/federated demo/pooled demo/alone --out demo/comparison"
	@$(BIN)/amos-fl compare demo/federated demo/pooled demo/alone --out demo/comparison

.PHONY: test
test: $(RUN_READY) ## The tests, without those marked slow
	$(BIN)/python -m pytest $(QUICK) $(PYTEST_ARGS)

.PHONY: check
check: lint ## What CI runs: ruff, import-linter, pyright, the doctests and every test
	$(BIN)/python -m pytest $(QUICK) $(PYTEST_ARGS)
	$(BIN)/python -m pytest $(SLOW) $(PYTEST_ARGS)

.PHONY: lint
lint: $(DEV_READY) ## ruff, the contracts of imports and pyright
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/pyright --pythonpath $(BIN)/python

.PHONY: docs
docs: $(DEV_READY) ## The documentation site, in build/docs; whatever is broken or undocumented fails it
	$(BIN)/python -m sphinx -q -b html -W --keep-going -d build/docs-cache docs build/docs
	@echo "The documentation is in build/docs/index.html"

.PHONY: format
format: $(DEV_READY) ## Let ruff format the code and sort its imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: bench
bench: $(DEV_READY) ## A table of benchmarks beside other tools, at small sizes (minutes, on an idle machine)
	$(BIN)/python benchmarks/table.py $(BENCH_ARGS)

.PHONY: bench-full
bench-full: $(DEV_READY) ## The same at real sizes (half an hour or more)
	$(BIN)/python benchmarks/table.py --full $(BENCH_ARGS)

.PHONY: wheel-test
wheel-test: $(DEV_READY) ## Build the wheel, install it in an empty environment, run it outside the checkout
	PIP_ARGS='$(PIP_ARGS)' .ci/wheel-test $(BIN)/python $(WHEEL_RUN)

.PHONY: deployment-test
deployment-test: $(RUN_READY) ## The image and a federation of eight sites in containers; needs Docker (minutes)
	$(BIN)/python -m pytest tests/containers --durations=0 $(PYTEST_ARGS)

.PHONY: lock
lock: $(PYTHON_READY) ## Pin the newest versions that pyproject.toml's ranges allow
	@echo "Resolving pyproject.toml's ranges in an empty environment (minutes) ..."
	@set -e; folder=$$(mktemp -d); trap 'rm -rf "$$folder"' EXIT; \
	$(BIN)/python -m venv "$$folder/venv"; \
	"$$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) '.[dev]'; \
	{ sed -n '/^#/p' requirements.lock; \
	  "$$folder/venv/bin/python" -m pip freeze --disable-pip-version-check | grep -v '^amos-fl' \
	    | sed 's/+[A-Za-z0-9.]*$$//' | grep -vE '^(nvidia-|cuda-|triton==)'; } > "$$folder/lock"; \
	cp "$$folder/lock" requirements.lock
	@echo "requirements.lock is written; read 'git diff requirements.lock' and run 'make check'."

.PHONY: clean
clean: ## Remove the environment, builds and caches (not your runs)
	rm -rf build dist .pytest_cache .ruff_cache .hypothesis
	find amos_fl clients server tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
	if [ -f $(VENV)/pyvenv.cfg ]; then rm -rf $(VENV); fi

$(PYTHON_READY):
	@.ci/make-venv $(VENV) $(PYTHON)
	@touch $@

$(RUN_READY): $(PYTHON_READY) pyproject.toml requirements.lock
	@echo "Installing amos-fl, torch and what the tests need into $(VENV): once, a minute or more with a fast line ..."
	@$(PIP_INSTALL) --editable '.[test]'
	@touch $@

$(DEV_READY): $(RUN_READY)
	@echo "Installing ruff, import-linter, pyright, Sphinx and the builder into $(VENV): once ..."
	@$(PIP_INSTALL) --editable '.[dev]'
	@touch $@
