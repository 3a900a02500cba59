# Everything a person types. `make` alone lists it.

PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.chainlytics-setup
UV_COMPILE := uv pip compile --universal --python-version 3.11 --extra dev --generate-hashes \
	--no-emit-index-url --custom-compile-command 'make lock'

# What an installed .venv depends on: interpreter, folder and lock (line 1: made anew when they change),
# pyproject.toml (line 2: only the project itself is installed again).
define FINGERPRINT
import hashlib, os, pathlib, platform, sys
def digest(name, *more):
    return hashlib.sha256("\0".join((pathlib.Path(name).read_text(), *more)).encode()).hexdigest()
print(digest("requirements.lock", sys.version, platform.machine(), os.getcwd()))
print(digest("pyproject.toml"))
endef
export FINGERPRINT

# Settings of the caller's shell that would send pip or Python elsewhere.
CLEAN := env -u PYTHONPATH -u PYTHONHOME -u PIP_TARGET -u PIP_PREFIX -u PIP_REQUIRE_VIRTUALENV \
	PIP_USER=0 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_ROOT_USER_ACTION=ignore

.DEFAULT_GOAL := help
.PHONY: help setup demo serve kafka test lint contract clients bench lock clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: ## make .venv from the lock; does nothing where it is already right
	@set -eu; \
	fail() { printf 'setup: %s\n' "$$1" >&2; exit 1; }; \
	command -v '$(PYTHON)' >/dev/null 2>&1 || fail \
		"'$(PYTHON)' was not found. Install Python 3.11 or newer, or name one: make setup PYTHON=python3.12"; \
	'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail \
		"Python 3.11 or newer is needed; '$(PYTHON)' is $$('$(PYTHON)' -V 2>&1). Name another: make setup PYTHON=python3.12"; \
	want=$$('$(PYTHON)' -c "$$FINGERPRINT"); \
	have=$$(cat $(STAMP) 2>/dev/null || true); \
	if [ "$$have" = "$$want" ] && [ -x $(VENV)/bin/chainlytics ] && $(VENV)/bin/python -c '' 2>/dev/null; then \
		exit 0; \
	fi; \
	base=$$('$(PYTHON)' -c 'import sys; print(getattr(sys, "_base_executable", None) or sys.executable)'); \
	"$$base" -c 'import venv, ensurepip' 2>/dev/null || fail \
		"this Python lacks venv or ensurepip. On Debian and Ubuntu: apt-get install python3-venv"; \
	first() { printf '%s\n' "$$1" | head -n 1; }; \
	if [ "$$(first "$$have")" != "$$(first "$$want")" ] || ! $(VENV)/bin/python -c 'import pip' 2>/dev/null; then \
		echo "setup: making $(VENV) and installing the locked packages (a minute or two, once)"; \
		rm -rf $(VENV); \
		$(CLEAN) "$$base" -m venv $(VENV) || fail "the virtual environment could not be made in $(VENV)"; \
		$(CLEAN) $(VENV)/bin/python -m pip install --quiet --require-hashes --no-deps --only-binary :all: \
			-r requirements.lock || fail "the locked packages could not be installed; nothing is half done: run make setup again"; \
	fi; \
	rm -f $(STAMP); \
	$(CLEAN) $(VENV)/bin/python -m pip install --quiet --no-index --no-deps --no-build-isolation -e . || fail \
		"the project itself could not be installed into $(VENV)"; \
	printf '%s\n' "$$want" > $(STAMP); \
	echo "setup: done"

demo: setup ## the whole story on a year of orders, in under five minutes
	@$(VENV)/bin/chainlytics demo

serve: setup ## the API, projector and consumer on one port, until Ctrl-C
	@$(VENV)/bin/chainlytics serve

kafka: setup ## fetch a Kafka broker for tests, by Maven (RUN=1 runs it on loopback, PORT=9092)
	@$(VENV)/bin/python -m eventstore.kafka $(if $(RUN),run --home "$${CHAINLYTICS_HOME:-.chainlytics}/kafka" \
		$(if $(PORT),--port $(PORT)))

test: setup ## all tests, against a real Postgres (ARGS='-k orders' to choose)
	@$(VENV)/bin/python -m pytest $(ARGS)

lint: setup ## ruff, strict types, and the arrows between the packages
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

contract: setup ## the OpenAPI document linted, and a server held against it (EXAMPLES=1000 for more than 200 of each operation)
	@$(VENV)/bin/python -m clients --lint
	@$(VENV)/bin/python -m tests.contract $(if $(EXAMPLES),--examples $(EXAMPLES))

clients: setup ## make the Python and TypeScript clients into build/clients
	@$(VENV)/bin/python -m clients

bench: setup ## the benchmarks (NAME=append for one of them)
	@$(VENV)/bin/python -m benchmarks $(NAME)

lock: setup ## write requirements.lock anew from pyproject.toml (UPGRADE=1 takes newer versions)
	@$(VENV)/bin/$(UV_COMPILE) --quiet $(if $(UPGRADE),--upgrade) pyproject.toml --output-file requirements.lock

clean: ## remove .venv and caches; the data in .chainlytics stays
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
