# make train · make test: each sets up what is missing in .venv first
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help train test test-slow lint bench gpu docs torture clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

train: .venv/core  ## the main job; make train ARGS="model=dncnn noise=sigma50"
	@$(BIN)/python train.py $(ARGS)

test: lint  ## lint, types and tests
	$(BIN)/pytest $(ARGS)

test-slow: .venv/dev  ## the tests that take half a minute and more each (10 minutes)
	$(BIN)/pytest -m slow $(ARGS)

lint: .venv/dev  ## lint and types alone
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/core  ## what training, evaluation, noise and sweeps cost beside the network, the cache beside decoding, networks beside the roofline (8 minutes)
	@$(BIN)/python -m experiments.bench $(ARGS)
	@$(BIN)/python -m experiments.bench_cache
	@$(BIN)/python -m experiments.bench_denoise
	@$(BIN)/python -m experiments.bench_evaluate
	@$(BIN)/python -m experiments.bench_noise
	@$(BIN)/python -m experiments.bench_sweep
	@$(BIN)/python -m experiments.bench_xunit
	@$(BIN)/python -m experiments.throughput $(SHORT)

docs: .venv/docs  ## these pages as a site in site/, which needs no network
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build -q $(ARGS) && echo "site        site/index.html"

gpu: .venv/dev  ## tests, costs, throughput and trainings on a GPU, in calls of nine minutes that go on; ARGS=dry=true without one
	@$(BIN)/python -m experiments.gpu $(ARGS)

torture: .venv/core  ## kill 60 runs and 20 sweeps at random moments, go on, count; runs under stock Lightning, too (40 minutes)
	@$(BIN)/python tests/torture.py $(ARGS)
	@$(BIN)/python tests/torture_sweep.py

clean:  ## remove the environment and caches; runs and data stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache *.egg-info build

.venv/python:
	@command -v $(PYTHON) >/dev/null || { echo "missing: $(PYTHON) (Python 3.11 or newer; name another with PYTHON=…)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "missing: Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version) (name another with PYTHON=…)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "missing: Python's venv and pip (on Debian and Ubuntu: apt install python3-venv)"; exit 1; }
	@$(PYTHON) -m venv .venv && touch $@

.venv/core: .venv/python pyproject.toml
	@echo "setting up .venv (minutes, once)"
	@$(if $(TORCH_INDEX),$(BIN)/pip install -q --disable-pip-version-check --index-url $(TORCH_INDEX) "torch>=2.11$(comma)<2.14")
	@$(BIN)/pip install -q --disable-pip-version-check -e . && touch $@

.venv/docs: .venv/core
	@$(BIN)/pip install -q --disable-pip-version-check -e ".[docs]" && touch $@

.venv/dev: .venv/core
	@echo "setting up what the tests need"
	@$(BIN)/pip install -q --disable-pip-version-check -e ".[dev]" && touch $@

SHORT := 'models=[dncnn,xdncnn,swift]' batch_size=4 patch_size=64 seconds=0.3 \
	'run_dir=runs/bench/throughput_$${now:%Y-%m-%d_%H-%M-%S}'
comma := ,
