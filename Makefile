# Every target makes the environment first if it is missing or stale.
#   make paper-figures [PROFILE=laptop] [DATA=/path/to/JetClass] [DRY_RUN=1]
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help env paper-figures redraw test bench soak gpu-check lab notebooks lock clean

PROFILE ?= laptop
DATA ?=
DRY_RUN ?=
PYTHON ?= python3
INSTALLER ?= uv
PY := .venv/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check --no-compile
UV := $(PY) -m uv pip install --quiet --python $(PY) $$(d=$$($(PY) -m uv cache dir); \
  mkdir -p "$$d" 2>/dev/null && [ -w "$$d" ] || echo --no-cache)
LOCKED := --no-deps --require-hashes -r
LOCK_OF_UV := <(sed -n '/^uv==/,/[^\\]$$/p' requirements.lock)
LOCK_OF_PYTHIA := <(sed -n '/^pythia8mc==/,/[^\\]$$/p' requirements.lock)
LOCK_BUT_PYTHIA := <(sed '/^pythia8mc==/,/[^\\]$$/d' requirements.lock)
LOCK_BUT_UV := <(sed '/^uv==/,/[^\\]$$/d; /^pythia8mc==/,/[^\\]$$/d' requirements.lock)
IMPORTS := import importlib, pkgutil, jetfm, hypothesis, ipykernel.kernelapp, nbval, papermill, pytest; \
  [importlib.import_module(m.name) for m in pkgutil.walk_packages(jetfm.__path__, "jetfm.") \
   if m.name != "jetfm.__main__"]
ENV := .venv/.complete

help:
	@echo "make paper-figures [PROFILE=$(PROFILE)] [DATA=folder] [DRY_RUN=1]  every figure, in figures/<profile>/"
	@echo "make redraw [PROFILE=$(PROFILE)]  every figure and the page from results/<profile>, in a minute"
	@echo "make test           physics, mathematics and notebook tests"
	@echo "make bench          each fast path against its plain reference, one JSON object a line"
	@echo "make soak           long checks: ten thousand damaged files, the papers' networks through every stage"
	@echo "make gpu-check      on a GPU: equal to the CPU, rates, smoke, a dry run of profile gpu; eight minutes"
	@echo "make lab            JupyterLab in notebooks/"
	@echo "make env            the environment alone, in .venv, by uv or, with INSTALLER=pip, by pip"
	@echo "make notebooks      store anew the outputs that nbval checks"
	@echo "make lock           resolve requirements.lock anew from pyproject.toml"
	@echo "make clean          remove the environment, all work and all figures"

env: $(ENV)

# Exact versions with hashes from the lock, uv's own too; torch apart, since its build depends on the
# machine: by pip, whose settings say where from (uv reads none of them).
# What jetfm and its notebooks import is compiled at the end: it saves each process seconds where
# PYTHONDONTWRITEBYTECODE is set, and all modules would take as long as the rest.
# Only simulating needs Pythia: where it has no wheel, compiling would take a quarter of an hour.
$(ENV): pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "jetfm needs Python 3.11 or newer; found $$($(PYTHON) --version). Try make PYTHON=python3.11"; exit 1; }
	@echo "Installing the environment into .venv (a minute or two, once)"
	@rm -rf .venv && $(PYTHON) -m venv .venv
	@trap 'exit 130' INT; \
	  { [ "$(INSTALLER)" = uv ] && $(PIP) $(LOCKED) $(LOCK_OF_UV) && $(UV) $(LOCKED) $(LOCK_BUT_PYTHIA); } \
	  || { echo "Without uv: pip installs, which takes longer"; $(PIP) $(LOCKED) $(LOCK_BUT_UV); }
	@$(PIP) "$$(grep -oE 'torch==[0-9.]+' pyproject.toml)"
	@said=$$($(PIP) --only-binary :all: $(LOCKED) $(LOCK_OF_PYTHIA) 2>&1) \
	  || echo "Without Pythia ($${said##*$$'\n'}): all runs on the jets in data/ but 'jetfm simulate'"
	@$(PIP) --no-deps --no-build-isolation -e .
	-@env -u PYTHONDONTWRITEBYTECODE $(PY) -c '$(IMPORTS)'
	@touch $@

paper-figures: $(ENV)
	@$(PY) -m jetfm figures --profile "$(PROFILE)" $(if $(DATA),--data "$(DATA)") $(if $(filter-out 0 no false,$(DRY_RUN)),--dry-run)

redraw: $(ENV)
	@$(PY) -m jetfm redraw "results/$(PROFILE)"

test: $(ENV)
	@$(PY) -m ruff check jetfm tests benchmarks soak conftest.py
	@$(PY) -m pytest --nbval-lax --numprocesses logical --maxprocesses 8 \
	  --no-loadscope-reorder tests notebooks

bench: $(ENV)
	@$(PY) -m benchmarks

soak: $(ENV)
	@$(PY) -m soak

gpu-check: $(ENV)
	@$(PY) -m soak.gpu

lab: $(ENV)
	@$(PY) -m jupyter lab --notebook-dir notebooks

notebooks: $(ENV)
	@$(PY) -c 'from jetfm.notebooks import store_checked_outputs; store_checked_outputs()'

lock: $(ENV)
	@$(PIP) $(LOCKED) $(LOCK_OF_UV)
	@printf 'setuptools\nuv\n' | $(PY) -m uv pip compile pyproject.toml - --extra simulation --extra notebooks --extra tests \
	  --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet \
	  --no-emit-package torch --no-emit-package triton -o requirements.lock
	@$(PY) -c "import re,pathlib; p=pathlib.Path('requirements.lock'); \
	  p.write_text(re.sub(r'(?m)^(nvidia|cuda)-[^\n]*\\\\\n(    --hash[^\n]*\n)+', '', p.read_text()))"

clean:
	rm -rf .venv work jetfm.egg-info .pytest_cache .ruff_cache .hypothesis
	find figures -mindepth 1 -not -name .gitkeep -delete
	find . -name __pycache__ -prune -exec rm -rf {} +
