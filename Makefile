# Every target makes the environment first if it is missing or stale.
#   make paper-figures [PROFILE=laptop] [DATA=/path/to/JetClass] [DRY_RUN=1]
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env paper-figures test bench soak lab notebooks lock clean

PROFILE ?= laptop
DATA ?=
DRY_RUN ?=
PYTHON ?= python3
PY := .venv/bin/python
ENV := .venv/.complete

help:
	@echo "make paper-figures [PROFILE=$(PROFILE)] [DATA=folder] [DRY_RUN=1]  every figure, in figures/<profile>/"
	@echo "make test           physics, mathematics and notebook tests"
	@echo "make bench          each fast path against its plain reference, one JSON object a line"
	@echo "make soak           long checks: readers against ten thousand damaged files"
	@echo "make lab            JupyterLab in notebooks/"
	@echo "make env            the environment alone, in .venv"
	@echo "make notebooks      store anew the outputs that nbval checks"
	@echo "make lock           resolve requirements.lock anew from pyproject.toml"
	@echo "make clean          remove the environment, all work and all figures"

env: $(ENV)

# Exact versions with hashes from the lock; torch apart, since its build depends on the machine.
$(ENV): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "jetfm needs Python 3.11 or newer; found $$($(PYTHON) --version). Try make PYTHON=python3.11"; exit 1; }
	@echo "Installing the environment into .venv (a few minutes, once)"
	@rm -rf .venv && $(PYTHON) -m venv .venv
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(PY) -m pip install --quiet --disable-pip-version-check "$$(grep -oE 'torch==[0-9.]+' pyproject.toml)"
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

paper-figures: $(ENV)
	@$(PY) -m jetfm figures --profile $(PROFILE) $(if $(DATA),--data $(DATA)) $(if $(DRY_RUN),--dry-run)

test: $(ENV)
	@$(PY) -m ruff check jetfm tests benchmarks soak conftest.py
	@$(PY) -m pytest --nbval-lax --numprocesses logical --maxprocesses 8 \
	  --no-loadscope-reorder tests notebooks

bench: $(ENV)
	@$(PY) -m benchmarks

soak: $(ENV)
	@$(PY) -m soak

lab: $(ENV)
	@$(PY) -m jupyter lab --notebook-dir notebooks

notebooks: $(ENV)
	@$(PY) -c 'from jetfm.notebooks import store_checked_outputs; store_checked_outputs()'

lock: $(ENV)
	@$(PY) -m pip install --quiet uv
	@echo setuptools | $(PY) -m uv pip compile pyproject.toml - --extra simulation --extra notebooks --extra tests \
	  --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet \
	  --no-emit-package torch --no-emit-package triton -o requirements.lock
	@$(PY) -c "import re,pathlib; p=pathlib.Path('requirements.lock'); \
	  p.write_text(re.sub(r'(?m)^(nvidia|cuda)-[^\n]*\\\\\n(    --hash[^\n]*\n)+', '', p.read_text()))"

clean:
	rm -rf .venv work jetfm.egg-info .pytest_cache .ruff_cache .hypothesis
	find figures -mindepth 1 -not -name .gitkeep -delete
	find . -name __pycache__ -prune -exec rm -rf {} +
