# One command for each thing a developer or an operator does here. `make` lists them.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help run test test-faults backup-test recovery-test bench lint format typecheck lock clean

VENV   := .venv
PY     := $(VENV)/bin/python
UV     := $(VENV)/bin/uv
UV_PIN := uv==0.13.9
PATHS  ?= controlplane ratelimits backups deployments examples tests benchmarks manage.py

# The first interpreter that answers and is new enough. It must be tried: a launcher may lie on PATH without its Python.
FIND_PYTHON = for candidate in $$PYTHON python3.13 python3.12 python3.11 python3; do \
		if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then \
			found=$$candidate; break; fi; done; \
	if [ -z "$$found" ]; then \
		echo "Python 3.11 or newer was not found: install it (Debian: apt install python3 python3-venv), or name it with PYTHON=/path/to/python3." >&2; \
		exit 1; fi

# What a finished installation of a lock is known by: the lock's contents and the interpreter.
STAMP_OF = "$$(cksum < requirements/$(1).txt) $$($(PY) -c 'import sys; print(sys.version)' 2>/dev/null)"

# $(call install,<lock>,<a lock that holds more>): make the environment hold what the lock names. The stamp is
# written last, so that an interrupted installation is done again; .place finds a checkout that was moved.
# pip installs uv, which installs the rest in a tenth of the time; without uv, pip does it all.
define install
	@set -e; \
	if [ -x $(PY) ] && { [ ! -f $(VENV)/.place ] || [ "$$(cat $(VENV)/.place)" = "$$(pwd)" ]; }; then \
		if [ "$$(cat $(VENV)/.installed-$(1) 2>/dev/null)" = $(call STAMP_OF,$(1)) ]; then exit 0; fi; \
		if [ -n "$(2)" ] && [ "$$(cat $(VENV)/.installed-$(2) 2>/dev/null)" = $(call STAMP_OF,$(2)) ]; then exit 0; fi; \
		usable=$$($(PY) -c 'import sys, pip; print(sys.version_info >= (3, 11))' 2>/dev/null || true); \
	fi; \
	if [ "$$usable" != True ]; then \
		$(FIND_PYTHON); \
		if ! $$found -c 'import venv, ensurepip' >/dev/null 2>&1; then \
			echo "$$found has no venv module: install it (Debian: apt install python3-venv)." >&2; exit 1; fi; \
		echo "making the virtual environment $(VENV) with $$($$found --version)"; \
		rm -rf $(VENV); \
		$$found -m venv $(VENV) || { echo "The virtual environment could not be made; see the lines above." >&2; exit 1; }; \
		pwd > $(VENV)/.place; \
	fi; \
	rm -f $(VENV)/.installed-$(1); \
	echo "installing the locked packages of requirements/$(1).txt"; \
	if $(PY) -m pip install --quiet --disable-pip-version-check $(UV_PIN) >/dev/null 2>&1 && \
	   UV_PYTHON_DOWNLOADS=never $(UV) pip install --quiet --python $(PY) --require-hashes --compile-bytecode -r requirements/$(1).txt; then :; \
	elif $(PY) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/$(1).txt; then :; \
	else echo "The packages could not be installed; see the lines above, then run make again." >&2; exit 1; fi; \
	printf '%s' $(call STAMP_OF,$(1)) > $(VENV)/.installed-$(1)
endef

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: venv venv-dev
venv:
	$(call install,embedded,dev)
venv-dev:
	$(call install,dev)

# exec, so that the stack is make's own child: make passes SIGTERM on to it, and it notices when make is killed.
run: venv ## set everything up and run the whole stack in the foreground (Ctrl-C stops it)
	@export ZANTARA_STOP_WITH_PARENT=$$PPID; exec $(PY) manage.py up

test: venv-dev ## run the test suite, on SQLite and then what touches the database on PostgreSQL
	@$(PY) -m compileall -q $(filter-out tests benchmarks manage.py,$(PATHS))
	$(PY) -m pytest -n 2 --dist loadgroup -m "not faults"
	@if $(PY) -c 'import sys; from tests.needs import postgres_bin; sys.exit(postgres_bin() is None)'; then \
		set -x; ZANTARA_TEST_DATABASE=postgres $(PY) -m pytest -n 2 --dist loadgroup -m "database and not faults and not e2e"; \
	elif [ "$$CI" = true ]; then \
		echo "No PostgreSQL server is installed, and with CI=true nothing may be left out (Debian: apt install postgresql)." >&2; exit 1; \
	else \
		echo "left out: the tests on PostgreSQL, because no PostgreSQL server is installed (Debian: apt install postgresql)"; \
	fi

test-faults: venv-dev ## kill, freeze and starve things, and see that they recover
	@$(PY) -m compileall -q $(filter-out tests benchmarks manage.py,$(PATHS))
	$(PY) -m pytest -n 2 --dist loadgroup -m faults

backup-test: venv ## on the running stack: back up, verify, drill, and print what was proven
	@$(PY) manage.py backup test

recovery-test: venv ## on the running stack: lose vectors, restore them, and print what was proven
	@$(PY) manage.py backup recovery-test

bench: venv-dev ## measure against peers, side by side in one run
	$(PY) -m benchmarks

lint: venv-dev typecheck ## style, formatting, types and the layers of imports
	$(VENV)/bin/ruff check $(PATHS)
	$(VENV)/bin/ruff format --check $(PATHS)
	$(VENV)/bin/lint-imports

typecheck: venv-dev ## mypy, strict
	ZANTARA_SECRET_KEY=type-check $(VENV)/bin/mypy controlplane ratelimits backups deployments examples

format: venv-dev ## put the code into the one form
	$(VENV)/bin/ruff check --fix $(PATHS)
	$(VENV)/bin/ruff format $(PATHS)

COMPILE = $(UV) pip compile --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url \
	--custom-compile-command "make lock" -q pyproject.toml
lock: venv-dev ## resolve the dependencies of pyproject.toml anew
	$(COMPILE) --extra embedded --group dev -o requirements/dev.txt
	$(COMPILE) --extra embedded -c requirements/dev.txt -o requirements/embedded.txt
	$(COMPILE) -c requirements/dev.txt -o requirements/runtime.txt

clean: ## remove what is made (the virtual environment and caches; never the data directory)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis test-results
	find . -name __pycache__ -type d -not -path './var/*' -prune -exec rm -rf {} +
