# Needs Python 3.11 or newer, make and a package index. `make help` lists the targets.

PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin/python
PIP = $(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt
# pyright looks for packages beside the first python on PATH; --verifytypes takes no other hint.
PYRIGHT = PATH="$(abspath $(VENV))/bin:$$PATH" pyright

# Tests mostly wait, for servers and leases. On a server of the user's own they take turns.
JOBS ?= $(if $(JOBGUARD_TEST_REDIS_URL),0,2)
PYTEST = -m pytest -n $(JOBS)

VERSIONS := 3.11 3.12 3.13
SOURCES = $(shell find src tests examples -name '*.py' -o -name '*.lua' -o -name '*.md') README.md pyproject.toml

# A stamp is written once its step is complete, so that an interrupted one is done again.
MADE = $(VENV)/.made
DEMO = $(VENV)/.demo-installed
DEV = $(VENV)/.dev-installed
REDIS8 = $(VENV)/.redis8-installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check format types layers coverage docs bench chaos chaos-brief chaos-long \
	chaos-mutants test-all interpreters suite test-redis8 suite-redis8 build clean $(VERSIONS:%=test-%)

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' Makefile | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' \
		| awk -F '\t' '{ printf "  make %-14s %s\n", $$1, $$2 }'

demo: $(DEMO) ## run the example worker on an embedded server
	@$(RUN) examples/arq_worker.py

test: $(DEV) ## run the whole test suite, with coverage: about 9 minutes
	$(run-tests)

check: format types layers coverage ## formatting, lint, types, layers and coverage

format: $(DEV)
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .

types: $(DEV)
	$(RUN) -m mypy
	$(PYRIGHT)
	$(PYRIGHT) --verifytypes jobguard --ignoreexternal

layers: $(DEV)
	$(VENV)/bin/lint-imports --no-cache

coverage: .coverage
	$(RUN) -m coverage report

docs: $(DEV) ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict

bench: $(DEV) ## measure against bare calls and other libraries
	$(RUN) -m benchmarks --strict

chaos: $(DEV) ## throw every fault at it and judge what comes of that: about 8 minutes
	$(RUN) -m chaos run

chaos-brief: $(DEV) ## a taste of that: under 3 minutes
	$(RUN) -m chaos run --scale brief

chaos-long: $(DEV) ## ten times as much: over an hour
	$(RUN) -m chaos run --scale long

chaos-mutants: $(DEV) ## seed bugs, and see that each is found
	$(RUN) -m chaos mutants

test-all: interpreters $(VERSIONS:%=test-%) test-redis8 ## the suite on Python 3.11 to 3.13, and with redis-py 8

interpreters:
	@missing=; for version in $(VERSIONS); do \
		python$$version -c '' 2>/dev/null || missing="$$missing python$$version"; \
	done; \
	if [ -n "$$missing" ]; then \
		echo "make test-all needs these interpreters on PATH, which were not found:$$missing" >&2; exit 1; \
	fi

$(VERSIONS:%=test-%): test-%:
	@$(MAKE) --no-print-directory suite PYTHON=python$* VENV=.venv-$*

suite: $(DEV)
	@$(RUN) -VV
	$(RUN) $(PYTEST)

test-redis8: ## the suite with redis-py 8, which arq does not ask for but works with
	@$(MAKE) --no-print-directory suite-redis8 VENV=.venv-redis8

suite-redis8: $(REDIS8)
	$(RUN) $(PYTEST)

build: $(DEV) ## make the wheel and the source distribution
	$(RUN) -m build

clean: ## remove environments and everything built
	rm -rf .venv .venv-* .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist site

# The recipe of a test run; `make check` reads the data it leaves, and runs it only if they are stale.
define run-tests
rm -f .coverage .coverage.*
$(RUN) -m coverage run $(PYTEST)
$(RUN) -m coverage combine --quiet
endef

.coverage: $(DEV) $(SOURCES)
	$(run-tests)

$(MADE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "jobguard needs Python 3.11 or newer; '$(PYTHON)' is not: name another with make PYTHON=..." >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(DEMO): pyproject.toml constraints.txt | $(MADE)
	$(PIP) -e '.[arq,cli,embedded,examples]'
	@touch $@

$(DEV): pyproject.toml constraints.txt | $(MADE)
	$(PIP) -e '.[dev]'
	@touch $@ $(DEMO)

$(REDIS8): $(DEV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --no-deps 'redis>=8,<9'
	@touch $@
