# `make help` lists the targets. Each makes its own set-up (.venv) on the first run and is quick afterwards.
# To use an environment of your own instead: make test PY=python3

PYTHON ?= $(shell command -v python3 || command -v python)
WORKERS ?= 2

ifdef PY
SETUP := true
else
PY := .venv/bin/python
SETUP := $(if $(PYTHON),$(PYTHON) scripts/setup_env.py,echo "error: no python3 on the PATH; 3.10 or newer is needed" >&2; exit 2)
endif

# Real faces and recogniser weights for the tests that can use them; those tests skip where there are none.
ifneq ($(wildcard ../shared/data),)
IDCF_TEST_DATA ?= $(abspath ../shared/data)
endif
export IDCF_TEST_DATA

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-train test test-slow lint bench gpu-check clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'

setup:
	@$(SETUP)

demo: setup ## restore unseen people with the shipped weights, evaluate, train for a moment (no GPU; <= 4 minutes)
	@$(PY) scripts/run_demo.py

demo-train: setup ## what made the shipped weights: recognizers, stages I-III, from nothing (about 90 minutes, resumable)
	@$(PY) scripts/train_demo.py

test: lint ## lint, then every test that takes about a second
	@$(PY) -m pytest -m "not slow and not gpu" -n $(WORKERS) -q --min-passed 1

test-slow: setup ## the long tests: kills, ranks, toy training (<= 15 minutes)
	@$(PY) -m pytest -m slow -q --min-passed 1

lint: setup ## ruff (rules and format) and mypy
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

bench: setup ## benchmarks/bench_*.py: a table and benchmarks/results/*.json
	@$(PY) benchmarks/run_all.py

gpu-check: setup ## checks that need CUDA; says so and leaves where there is none
	@$(PY) scripts/gpu_check.py

clean: ## caches, the demo's output and the environment; never experiments, weights or data sets
	@rm -rf .venv .venv.lock demo_out build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis benchmarks/results
	@find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
