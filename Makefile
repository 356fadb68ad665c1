# Everything here works alone after a bare clone. ARGS passes arguments on: make demo ARGS="--seconds 10".
SHELL := /bin/bash
PYTHON ?=
export PYTHON
BIN := .venv/bin

# An environment that forbids it would have every process of every test compile what it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test fuzz duel simulate check lock clean

setup:
	@bash deploy/environment.sh
	@$(BIN)/python -m deploy.software

demo: setup
	@$(BIN)/weighbridge demo $(ARGS)

test: setup
	@$(BIN)/python -m pytest $(ARGS)

fuzz: setup
	@$(BIN)/python -m loadtest.fuzz $(ARGS)

# 100,000 signatures, sound and not, through both engines.
duel: setup
	@$(BIN)/python -m loadtest.duel $(ARGS)

# SEEDS=n plays so many; SEED=n replays one, step by step.
SEEDS ?= 5000
simulate: setup
	@$(BIN)/python -m loadtest.simulation $(if $(SEED),--seed $(SEED),--seeds $(SEEDS))

check: setup
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

lock:
	@bash deploy/lock.sh

clean:
	@bash deploy/clean.sh
