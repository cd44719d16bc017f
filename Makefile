# `make` or `make help` lists the targets. Everything runs in .venv, made here.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(shell command -v uv 2>/dev/null)
SEEDS ?= 3
MINUTES ?=
FLAGS = $(if $(TABLE),--table=$(TABLE)) $(if $(SCALE),--scale=$(SCALE))

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev setup-bench lock test test-slow mutate lint format reproduce-table \
	reproduce-all tables publish bench docs notebooks clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## Make .venv with the project and all extras (uv is used if it is there)
setup-dev: $(VENV)/.installed-dev ## The same with what tests and lint need
setup-bench: $(VENV)/.installed-bench ## The same with PyTorch, for `make bench`

lock: setup-dev ## Write the versions in .venv, which the tests ran with, to requirements.lock
	{ echo "# make lock: all that the tests ran with, on $$($(BIN)/python -V), Linux x86-64."; \
	  $(if $(UV),$(UV) pip freeze --python $(BIN)/python,$(BIN)/python -m pip freeze) --exclude-editable; \
	} > requirements.lock

reproduce-table: setup ## Train what has no record here, show the table [TABLE= SCALE= SEEDS=]
	$(BIN)/python scripts/reproduce.py $(FLAGS) --seeds=$(SEEDS)

reproduce-all: SEEDS = 1
reproduce-all: setup ## The same for every table, one seed unless told otherwise [SCALE= SEEDS= MINUTES=]
	$(BIN)/python scripts/reproduce.py --table= $(FLAGS) --seeds=$(SEEDS) $(if $(MINUTES),--minutes=$(MINUTES))

tables: setup ## Render tables and figures from the committed records alone [TABLE= SCALE=]
	$(BIN)/python scripts/tables.py $(FLAGS)

publish: setup ## Copy this machine's records into results/ (TABLE= SCALE=)
	$(BIN)/python scripts/publish.py $(FLAGS)

bench: setup-bench ## Measure speed and memory side by side, PyTorch included
	$(BIN)/python scripts/bench.py

docs: setup-dev ## Build the documentation into site/, with no network; a warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

notebooks: setup-dev ## Run docs/notebooks and keep what they show (two minutes)
	$(BIN)/python scripts/notebooks.py

test: setup-dev ## Run the tests (10 to 25 minutes on two cores, and some to install)
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-slow: setup-dev ## Run the tests that take minutes each [ARGS= PART=1/3 ATTACKS=quick]
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m slow $(if $(PART),--part=$(PART)) $(ARGS)

mutate: ARGS ?= --limit=100 --seconds=3600
mutate: setup-dev ## List small changes of the algebra that no test notices [ARGS=]
	$(BIN)/python -m tests.mutate $(ARGS)

lint: setup-dev ## Check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: setup-dev ## Mend style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove .venv and caches; runs/ and results/ stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './runs/*' -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "vnets needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 1; }
ifdef UV
	$(UV) venv --python $(PYTHON) $(VENV)
else
	$(PYTHON) -m venv $(VENV)
endif

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	$(call install,.[all])
$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	$(call install,.[dev])
	@touch $(VENV)/.installed
$(VENV)/.installed-bench: pyproject.toml | $(BIN)/python
	$(call install,.[bench])
	@touch $(VENV)/.installed

define install
	$(if $(UV),$(UV) pip install --quiet --python $(BIN)/python,$(BIN)/python -m pip install --quiet --disable-pip-version-check) -e '$(1)'
	@touch $@
endef
