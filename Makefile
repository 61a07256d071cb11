# The two commands are `make demo` and `make test`. Both set up what they need and skip what is there.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := .venv/bin
# Workers share the cores: numpy's and torch's own threads would only fight them.
export OMP_NUM_THREADS ?= 1

.PHONY: azurite demo emoji test test-long chaos check bench bench-check clean

demo: .venv/installed
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash jobs/demo.sh

emoji: .venv/installed
	@echo "── records: 1,443 emoji by four artists, a keyword and a spoken word each, in data/emoji"
	@$(BIN)/python datasets/emoji.py $(ARGS)

test: check browser
	@echo "── tests that need no Ray, in two processes"
	@$(BIN)/python -m pytest -n 2 --dist loadfile tests/unit tests/property
	@echo "── tests on a real Ray cluster, and in a browser, in two processes with a cluster each"
	@$(BIN)/python -m pytest -n 2 --dist loadfile --ignore=tests/unit --ignore=tests/property

test-long: .venv/installed azurite
	@echo "── tests that take long: more kills, more records, more formats"
	@$(BIN)/python -m pytest -m long

chaos: .venv/installed
	@PYTHONPATH="tests:$$PYTHONPATH" $(BIN)/python -m chaos $(ARGS)

check: .venv/installed
	@echo "── ruff, mypy"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy

bench: .venv-bench/installed
	@.venv-bench/bin/python jobs/bench throughput $(ARGS)

bench-check: .venv/installed
	@$(BIN)/python jobs/bench check $(ARGS)

# Daft wants another pyarrow than the rest, so the contenders have an environment of their own.
.venv-bench/installed: pyproject.toml .venv/installed
	@echo "── installing the contenders into .venv-bench (about two minutes the first time)"
	@test -x .venv-bench/bin/python || $(PYTHON) -m venv .venv-bench
	@.venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[bench]"
	@touch $@

# The page is tested in a real Chromium: Debian's, since Playwright's own download is no package.
browser:
	@for name in chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "── installing Chromium (half a minute, once)"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive \
	    apt-get install -y -qq --no-install-recommends chromium >/dev/null; \
	fi || echo "   Chromium could not be installed: the tests of the page will skip"

# Azure's store is tested on Microsoft's own emulator, where it is there: 360 MB of npm's, so not for `make test`.
azurite:
	@test -d .azurite/node_modules/azurite && exit 0; \
	if command -v npm >/dev/null; then \
	  echo "── installing Azurite into .azurite (a minute, once)"; \
	  mkdir -p .azurite && cd .azurite && npm install --no-audit --no-fund --silent azurite@3.37.0 >/dev/null; \
	fi || echo "   Azurite could not be installed: the tests of Azure will skip"

.venv/installed: pyproject.toml
	@echo "── installing into .venv (about two minutes the first time)"
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer; set PYTHON=/path/to/python"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[test]"
	@touch $@

clean:
	rm -rf .venv .venv-bench .azurite runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
