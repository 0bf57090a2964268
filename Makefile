# The two commands that matter: `make run` and `make test`. Everything they need goes into .venv.

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000

VENV := .venv
BIN := $(VENV)/bin
BENCH := $(VENV)/bench
# Modules instead of the scripts beside them: those break when the folder moves.
PLINTH := $(BIN)/python -m app.cli

# What is compiled once, the tests' and the plugins' modules above all, need not be compiled at each start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

.PHONY: help
help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: $(VENV)/.run ## Run everything here until Ctrl-C (HOST=…, PORT=…)
	@$(PLINTH) run --host $(HOST) --port $(PORT)

.PHONY: dev
dev: $(VENV)/.run ## The same, and restart API and worker when the code changes
	@$(PLINTH) run --host $(HOST) --port $(PORT) --reload

.PHONY: test
test: $(VENV)/.dev ## Run the tests with coverage (ARGS='-k …')
	@$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow" --cov $(ARGS)

# One after the other: what they measure is how long a fleet takes that has the machine for itself.
.PHONY: test-faults
test-faults: $(VENV)/.dev ## Run every fault test, the slow ones too, and print the figures (ARGS='--figures FILE')
	@$(BIN)/python -m pytest tests/faults -m "" $(ARGS)

.PHONY: lint
lint: $(VENV)/.dev ## Check style, types and the direction of imports
	@$(BIN)/python -m ruff check
	@$(BIN)/python -m ruff format --check
	@$(BIN)/python -m mypy
	@$(BIN)/lint-imports --no-logo

.PHONY: format
format: $(VENV)/.dev ## Put the style right
	@$(BIN)/python -m ruff check --fix
	@$(BIN)/python -m ruff format

# A revision is the difference between the models and a database that has all the earlier ones.
.PHONY: migrate
migrate: $(VENV)/.run ## Apply the migrations (m='…': write a new one first)
ifdef m
	@$(PLINTH) with-servers -- sh -c '$(PLINTH) migrate && $(BIN)/python -m alembic revision --autogenerate -m "$$1" \
		&& $(PLINTH) migrate' sh "$$m"
else
	@$(PLINTH) with-servers -- $(PLINTH) migrate
endif

.PHONY: bench-jobs
bench-jobs: $(VENV)/.run $(BENCH)/.done ## Measure the job engine beside others (ARGS='--rounds 3')
	@$(BIN)/python bench/jobs.py $(ARGS)

.PHONY: venv
venv: $(BIN)/python ## Make the virtual environment, empty

.PHONY: install
install: $(VENV)/.dev ## Install all that development needs

# No address of an index and no path of this machine gets into the files; the hashes hold for every platform.
LOCK := env -u UV_FIND_LINKS -u UV_CONFIG_FILE $(BIN)/uv pip compile --quiet --no-config --universal \
	--python-version 3.11 --generate-hashes --custom-compile-command "make lock"

.PHONY: lock
lock: $(VENV)/.uv ## Bring requirements*.txt in line with pyproject.toml
	@$(LOCK) $(UPGRADE) pyproject.toml --extra dev --group build -o requirements-dev.txt
	@$(LOCK) $(UPGRADE) pyproject.toml --extra embedded --group build -c requirements-dev.txt -o requirements-run.txt
	@$(LOCK) $(UPGRADE) pyproject.toml -c requirements-dev.txt -o requirements.txt
	@$(LOCK) $(UPGRADE) --group bench -o requirements-bench.txt

.PHONY: upgrade
upgrade: ## Move every locked dependency to its newest allowed version
	@$(MAKE) --no-print-directory lock UPGRADE=--upgrade

.PHONY: clean
clean: ## Remove .venv, caches and reports; the data in .plinth stay
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage .coverage.* build *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What is installed is remembered in files that are as old as the installation.

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Plinth needs Python 3.11 or later, and $(PYTHON) is $$($(PYTHON) --version 2>&1)." \
			"Name another one: make PYTHON=python3.13 …"; exit 1; }
	@echo "Making $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv"; exit 1; }

# uv installs several times faster than pip. Where it cannot be had or does not reach an index, pip does the work.
$(VENV)/.uv: $(BIN)/python
	@sed -n '/^uv==/,/[^\\]$$/p' requirements-dev.txt > $(VENV)/uv.txt
	@$(PIP) --only-binary :all: -r $(VENV)/uv.txt || echo "uv is not to be had here: pip installs"
	@touch $@

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps
UV := $(BIN)/uv pip install --quiet --no-config --python $(BIN)/python --no-deps --compile-bytecode

define install
	@echo "Installing $(1)"
	@$(UV) --require-hashes -r $(1) || $(PIP) --require-hashes -r $(1)
	@$(UV) --no-build-isolation -e . || $(PIP) --no-build-isolation -e .
	@touch $@
endef

$(VENV)/.run: requirements-run.txt pyproject.toml $(VENV)/.uv
	$(call install,requirements-run.txt)

# It holds all that running needs, in the same versions.
$(VENV)/.dev: requirements-dev.txt requirements-run.txt pyproject.toml $(VENV)/.uv
	$(call install,requirements-dev.txt)
	@touch $(VENV)/.run

# Whom the job engine is compared with: beside the environment of the service, so that neither has a say in the other.
$(BENCH)/.done: requirements-bench.txt $(VENV)/.uv
	@echo "Installing $<"
	@$(BIN)/python -m venv --clear $(BENCH)
	@$(BIN)/uv pip install --quiet --no-config --python $(BENCH)/bin/python --require-hashes -r $< \
		|| $(BENCH)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r $<
	@touch $@
