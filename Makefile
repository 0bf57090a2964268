# The two commands that matter: `make run` and `make test`. Everything they need goes into .venv.

PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000

VENV := .venv
BIN := $(VENV)/bin
BENCH := $(VENV)/bench
DOCS := $(VENV)/docs
ARQ := $(VENV)/arq
LINTERS := $(VENV)/linters
# Modules instead of the scripts beside them: those break when the folder moves.
PLINTH := $(BIN)/python -m plinth.cli

# What is compiled once, the tests' and the plugins' modules above all, need not be compiled at each start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

.PHONY: help
help: ## Show this list
	@awk 'BEGIN { FS = ":.*## " } /^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z0-9-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST)) $(E2E)

##@ Every day

.PHONY: run
run: $(VENV)/.run ## Run everything here until Ctrl-C (HOST=…, PORT=…)
	@$(PLINTH) run --host $(HOST) --port $(PORT)

.PHONY: dev
dev: $(VENV)/.run ## The same, and restart API and worker when the code changes
	@$(PLINTH) run --host $(HOST) --port $(PORT) --reload

PROCESSES := 2
# On two cores too: these wait for servers and timers a third of their time.
test test-plinth: PROCESSES := 4
# A test that hangs says where, and fails.
# With -k one process: each of several would import and collect all tests to run a few. -n in ARGS wins.
PYTEST = $(BIN)/python -m pytest -n $(if $(filter -k%,$(ARGS)),0,$(PROCESSES)) --dist worksteal -m "not slow" \
	-o faulthandler_timeout=300 -o faulthandler_exit_on_timeout=true

# Without those that need more than Python (chart-test, image-test, test-adoption, edge-test, arq-test, browser-test, e2e), or most of the time.
.PHONY: test
test: $(VENV)/.dev ## Run the tests (ARGS='--cov', '-k …')
	@$(PYTEST) tests/unit tests/integration tests/plinth/unit tests/plinth/integration $(ARGS)

.PHONY: test-programs
test-programs: $(VENV)/.dev ## Run each command as a program, kill some, and type the pages of docs/ (ARGS='-k …')
	@$(PYTEST) tests/plinth/programs tests/plinth/faults tests/docs $(ARGS)

.PHONY: test-app
test-app: $(VENV)/.dev ## Run the service's own tests (ARGS='-k …')
	@$(PYTEST) tests/unit tests/integration $(ARGS)

# With the tiny service as the one of this tree: nothing of app/ is read.
.PHONY: test-plinth
test-plinth: $(VENV)/.dev ## Run the platform's tests (ARGS='-k …')
	@$(PYTEST) -c pyproject.toml --rootdir tests/service tests/plinth $(ARGS)

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
migrate: $(if $(m),$(VENV)/.dev,$(VENV)/.run) ## Apply the migrations (m='…': write a new one first)
ifdef m
	@$(PLINTH) with-servers -- sh -c '$(PLINTH) migrate && $(BIN)/python -m alembic revision --autogenerate -m "$$1" \
		&& $(PLINTH) migrate' sh "$$m"
else
	@$(PLINTH) with-servers -- $(PLINTH) migrate
endif

##@ Tests that take longer or need more

# One after the other: what they measure is how long a fleet takes that has the machine for itself.
.PHONY: test-faults
test-faults: $(VENV)/.dev ## Run every fault test, the slow ones too, and print the figures (ARGS='--figures FILE')
	@$(BIN)/python -m pytest tests/plinth/faults -m "" $(ARGS)

# nginx and HAProxy are Debian's packages nginx-light and haproxy.
.PHONY: edge-test
edge-test: $(VENV)/.dev ## Test the API under attack, and behind nginx and HAProxy
	@$(BIN)/python -m pytest tests/plinth/edge -m "" $(ARGS)

# The browser is Debian's package chromium.
.PHONY: browser-test
browser-test: ## Test /docs and /ops in a browser that reaches no other machine (ARGS='-k …')
	$(call needs,chromium)
	@$(MAKE) --no-print-directory $(VENV)/.browser
	@$(BIN)/python -m pytest -n 2 --dist worksteal tests/plinth/browser -m "" $(ARGS)

.PHONY: arq-test
arq-test: $(ARQ)/.done ## Test arq's functions beside arq itself, and Redis with the client that arq holds
	@$(ARQ)/bin/python -m pytest -n 2 --dist worksteal \
		tests/plinth/unit/redis tests/plinth/integration/redis tests/plinth/unit/jobs \
		$(wildcard tests/plinth/integration/jobs/test_arq*.py) tests/plinth/integration/http/test_rate_limits.py \
		tests/plinth/integration/test_outages.py $(ARGS)

# Programs of the chart's targets: Helm 3 and 4 side by side, kube-score, promtool and helm-docs; and two of requirements/.
HELM ?= helm
HELM4 ?= helm4
KUBE_SCORE ?= kube-score
PROMTOOL ?= promtool
HELM_DOCS ?= helm-docs
CHECKOV ?= $(LINTERS)/bin/checkov
HADOLINT ?= $(LINTERS)/bin/hadolint
export HELM HELM4 KUBE_SCORE PROMTOOL HELM_DOCS CHECKOV HADOLINT

.PHONY: chart-lint
chart-lint: $(VENV)/.dev $(LINTERS)/.done ## Check chart and images with Helm 3 and 4, kube-score, checkov, hadolint
	@$(BIN)/python -m pytest tests/linters $(ARGS)

.PHONY: chart-test
chart-test: $(VENV)/.dev ## Test the chart, its rules and dashboards (UPDATE=1: write the reviewed manifest anew)
	@$(BIN)/python -m pytest -n 2 --dist worksteal tests/chart tests/observability $(ARGS)

# A fork of the last release that adds a resource and takes this tree's changes: what a service does for an upgrade.
.PHONY: test-adoption
test-adoption: $(VENV)/.dev ## Start a service from this tree, and upgrade one
	@$(BIN)/python -m pytest tests/adoption $(ARGS)

.PHONY: bench-jobs
bench-jobs: $(VENV)/.run $(BENCH)/.done ## Measure the job engine beside others (ARGS='--rounds 3')
	@$(BIN)/python bench/jobs.py $(ARGS)

##@ In Docker and on a cluster

# The service's name and version: its image, its release and its namespace are called so.
SERVICE := $(shell sed -n '/^\[tool.plinth\]/,/^$$/ s/^name = "\(.*\)"/\1/p' pyproject.toml)
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' app/__init__.py)
REVISION = $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
# Each clone has containers and volumes of its own.
export COMPOSE_PROJECT_NAME ?= $(SERVICE)-$(firstword $(shell printf %s '$(CURDIR)' | cksum))
COMPOSE := docker compose --project-name $(COMPOSE_PROJECT_NAME) --file docker/docker-compose.yml
CLUSTER ?= plinth
KIND_NODE_IMAGE ?= kindest/node:v1.34.4
# What the chart brings along for trying out.
CHART_IMAGES := postgres:17 redis:8

.PHONY: service-name
service-name:
	@echo $(SERVICE)

# Says what is missing, before anything is half done.
needs = @for tool in $(1); do command -v $$tool >/dev/null || { echo "$@ needs $$tool, and it is not installed."; exit 1; }; done

.PHONY: up
up: ## Run everything in Docker, with hot reload (PORT=…); needs nothing else
	$(call needs,docker)
	@test -s .plinth/compose.env || { mkdir -p .plinth && umask 077 && \
		printf 'SECRET_KEY=%s\n' "$$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')" > .plinth/compose.env; }
	@PORT=$(PORT) $(COMPOSE) up --build --wait || { PORT=$(PORT) $(COMPOSE) logs --tail 20 migrate api worker; exit 1; }
	@echo "http://127.0.0.1:$(PORT)/docs answers. A token: $(COMPOSE) exec api plinth token --sub alice"

.PHONY: down
down: ## Stop that; the data stay in volumes
	$(call needs,docker)
	@PORT=$(PORT) $(COMPOSE) down --remove-orphans

.PHONY: image
image: ## Build the service's image, tagged with its version
	$(call needs,docker)
	@docker build --file docker/Dockerfile --tag $(SERVICE):$(VERSION) \
		--build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) .

.PHONY: image-test
image-test: $(VENV)/.dev ## Test the images and the compose file, in Docker (ARGS='-k …')
	@$(BIN)/python -m pytest tests/images $(ARGS)

.PHONY: cluster-up
cluster-up: ## Make a kind cluster of three nodes (CLUSTER=…, KIND_NODE_IMAGE=…)
	$(call needs,docker kind kubectl)
	@kind get clusters 2>/dev/null | grep -qx $(CLUSTER) || \
		kind create cluster --name $(CLUSTER) --config k8s/kind.yaml --image $(KIND_NODE_IMAGE) --wait 120s
	@$(call load,$(CHART_IMAGES))

.PHONY: cluster-down
cluster-down: ## Delete it, with all that is in it
	$(call needs,docker kind)
	@kind delete cluster --name $(CLUSTER)

# Tagged by what is in it, so that other code is another image and rolls the pods out.
.PHONY: deploy
deploy: image ## Build the image and bring the release up in that cluster, on http://127.0.0.1:8080
	$(call needs,docker kind kubectl helm)
	@key=$$(scripts/secret_key.sh) && tag=$(VERSION)-$$(docker image inspect --format '{{slice .Id 7 19}}' $(SERVICE):$(VERSION)) && \
		docker tag $(SERVICE):$(VERSION) $(SERVICE):$$tag && \
		kind load docker-image --name $(CLUSTER) $(SERVICE):$$tag $(SERVICE):$(VERSION) && \
		helm upgrade $(SERVICE) charts/plinth --install --reset-then-reuse-values --kube-context kind-$(CLUSTER) \
			--namespace $(SERVICE) --create-namespace --values k8s/values.yaml --values k8s/values-kind.yaml \
			--set image.tag=$$tag --set secretKey.value=$$key --wait --timeout 5m

# Which Service takes the traces. jaeger: without a collector before it.
COLLECTOR ?= otel-collector
OBSERVE_IMAGES = prom/prometheus:v2.53.3 quay.io/prometheus/prometheus:v2.53.3 jaegertracing/all-in-one:1.62.0 \
	$(if $(filter-out jaeger,$(COLLECTOR)),otel/opentelemetry-collector-contrib:0.150.0)

.PHONY: observe
observe: ## Put Prometheus, a collector and Jaeger beside that release (COLLECTOR=jaeger: no collector)
	$(call needs,docker kind kubectl helm)
	@$(call load,$(OBSERVE_IMAGES))
	@scripts/observe.sh $(CLUSTER) $(COLLECTOR) $(SERVICE)

# The end-to-end tests drive the sample service; a service without it lacks them and their target.
E2E := $(wildcard tests/e2e/e2e.mk)
include $(E2E)

# Images that the engine has already need not be pulled by each node.
load = for image in $(1); do if docker image inspect $$image >/dev/null 2>&1; then \
	kind load docker-image --name $(CLUSTER) $$image; fi; done

##@ A service of your own

# Needs nothing but Python and git: it comes before everything else.
.PHONY: start
start: ## Make this tree a service of your own, without the sample (NAME=orders-api)
	@$(PYTHON) scripts/start.py "$$NAME"

.PHONY: merge
merge: ## Merge another version of the platform (FROM=v0.2.0)
	@$(PYTHON) scripts/start.py --merge "$$FROM"

##@ Environment, locks, documentation

.PHONY: venv
venv: $(BIN)/python ## Make the virtual environment, empty

.PHONY: install
install: $(VENV)/.dev ## Install all that development needs

# No address of an index and no path of this machine gets into the files; the hashes hold for every platform.
LOCK := env -u UV_FIND_LINKS -u UV_CONFIG_FILE $(BIN)/uv pip compile --quiet --no-config --universal \
	--python-version 3.11 --generate-hashes --custom-compile-command "make lock"

.PHONY: lock
lock: $(VENV)/.uv ## Bring requirements/ in line with pyproject.toml
	@$(LOCK) $(UPGRADE) pyproject.toml --extra dev --group build -o requirements/dev.txt
	@$(LOCK) $(UPGRADE) pyproject.toml --extra e2e --group build -c requirements/dev.txt -o requirements/e2e.txt
	@$(LOCK) $(UPGRADE) pyproject.toml --extra browser --group build -c requirements/dev.txt -o requirements/browser.txt
	@$(LOCK) $(UPGRADE) pyproject.toml --extra embedded --group build -c requirements/dev.txt -o requirements/run.txt
	@$(LOCK) $(UPGRADE) pyproject.toml -c requirements/dev.txt -o requirements/base.txt
	@$(LOCK) $(UPGRADE) --group service -c requirements/dev.txt -o requirements/service.txt
	@$(LOCK) $(UPGRADE) --group bench -o requirements/bench.txt
	@$(LOCK) $(UPGRADE) --group docs -o requirements/docs.txt
	@$(LOCK) $(UPGRADE) --group linters -o requirements/linters.txt

.PHONY: schema
schema: $(VENV)/.dev ## Bring the chart's values.schema.json in line with the settings
	@$(BIN)/python -m scripts.values_schema

.PHONY: chart-docs
chart-docs: ## Make the chart's README of values.yaml
	@$(HELM_DOCS) --sort-values-order file --log-level warn --chart-search-root charts

# Without --quiet, which has --strict count no warnings.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs

.PHONY: docs
docs: $(DOCS)/.done ## Build the documentation's site in build/site, and fail on a broken link
	@$(MKDOCS) build --strict

.PHONY: docs-serve
docs-serve: $(DOCS)/.done ## Serve it on http://127.0.0.1:8001, and again after each change
	@$(MKDOCS) serve --dev-addr 127.0.0.1:8001

.PHONY: upgrade
upgrade: ## Move every locked dependency to its newest allowed version
	@$(MAKE) --no-print-directory lock UPGRADE=--upgrade

.PHONY: clean
clean: ## Remove .venv, caches and reports; the data in .plinth stay
	@rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage .coverage.* build *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# What is installed is remembered in files that are as old as the installation.

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "Plinth needs Python 3.11 or later, and $(PYTHON) is" \
			"$$(command -v $(PYTHON) >/dev/null && $(PYTHON) --version 2>&1 || echo not there)." \
			"Name another one: make PYTHON=python3.13 …"; exit 1; }
	@echo "Making $(VENV)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
		echo "$(PYTHON) cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv"; exit 1; }

# uv installs several times faster than pip. Where it cannot be had or does not reach an index, pip does the work.
$(VENV)/.uv: $(BIN)/python
	@sed -n '/^uv==/,/[^\\]$$/p' requirements/dev.txt > $(VENV)/uv.txt
	@$(PIP) --only-binary :all: -r $(VENV)/uv.txt || echo "uv is not to be had here: pip installs"
	@touch $@

# A terminal is shown the progress.
QUIET := $(shell [ -t 2 ] || echo --quiet)
PIP := $(BIN)/python -m pip install $(QUIET) --disable-pip-version-check --no-deps
UV := $(BIN)/uv pip install $(QUIET) --no-config --python $(BIN)/python --no-deps --compile-bytecode

define install
	@echo "Installing $(firstword $(1))"
	@$(UV) --require-hashes $(addprefix -r ,$(1)) || $(PIP) --require-hashes $(addprefix -r ,$(1))
	@$(UV) --no-build-isolation -e . || $(PIP) --no-build-isolation -e .
	@touch $@
endef

$(VENV)/.run: requirements/run.txt requirements/service.txt pyproject.toml $(VENV)/.uv
	$(call install,requirements/run.txt requirements/service.txt)

# It holds all that running needs, in the same versions.
$(VENV)/.dev: requirements/dev.txt requirements/run.txt requirements/service.txt pyproject.toml $(VENV)/.uv
	$(call install,requirements/dev.txt requirements/service.txt)
	@touch $(VENV)/.run

# What the job engine is compared with, what makes the documentation's site, and what checks the chart: environments of
# their own, so that they have no say in what the service runs on.
$(BENCH)/.done $(DOCS)/.done $(LINTERS)/.done: $(VENV)/%/.done: requirements/%.txt $(VENV)/.uv
	@echo "Installing $<"
	@$(BIN)/python -m venv --clear $(@D)
	@$(BIN)/uv pip install $(QUIET) --no-config --python $(@D)/bin/python --require-hashes -r $< \
		|| $(@D)/bin/python -m pip install $(QUIET) --disable-pip-version-check --require-hashes -r $<
	@touch $@

# The environment of development and what drives a browser.
$(VENV)/.browser: requirements/browser.txt $(VENV)/.dev
	$(call install,requirements/browser.txt requirements/service.txt)

# The environment of development but for redis-py: arq and its version of that are those of the benchmarks.
$(ARQ)/.done: requirements/dev.txt requirements/bench.txt $(VENV)/.dev
	@echo "Installing arq and the redis-py that it holds"
	@$(BIN)/python -m venv --clear $(@D)
	@sed '/^redis==/,/[^\\]$$/d' requirements/dev.txt > $(@D)/lock.txt
	@sed -n '/^\(arq\|redis\)==/,/[^\\]$$/p' requirements/bench.txt >> $(@D)/lock.txt
	@$(BIN)/uv pip install $(QUIET) --no-config --python $(@D)/bin/python --no-deps --require-hashes -r $(@D)/lock.txt \
		|| $(@D)/bin/python -m pip install $(QUIET) --disable-pip-version-check --no-deps --require-hashes -r $(@D)/lock.txt
	@$(BIN)/uv pip install $(QUIET) --no-config --python $(@D)/bin/python --no-deps --no-build-isolation -e . \
		|| $(@D)/bin/python -m pip install $(QUIET) --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@
