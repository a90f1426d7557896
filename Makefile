# make demo    the whole workflow on real photographs
# make test    the checks that every change must pass
# make help    the rest

PYTHON  ?= $(shell python3.11 -c "" 2>/dev/null && echo python3.11 || echo python3)
VENV    ?= .venv
WORKERS ?= 2
DEMO    ?= demo-report

STAMP  := $(VENV)/.installed
RUN    := $(VENV)/bin
PYTEST := OMP_NUM_THREADS=1 $(RUN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help venv demo test test-fast test-data test-browser format lint bench constraints clean

help:  ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1|\2/p' Makefile | column -t -s '|' 2>/dev/null \
	    || sed -nE 's/^([a-z-]+):.*## (.*)/  make \1: \2/p' Makefile

venv: $(STAMP)  ## the environment, made once and again when pyproject.toml changes

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@

demo: venv  ## train on photographs of solar cells for two minutes, and report
	$(RUN)/selftaught demo --out $(DEMO) --overwrite
	@echo "The report: $$(find "$$PWD/$(DEMO)" -name report.html)"

lint: venv  ## ruff and mypy
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

test: lint  ## lint, then every test that needs nothing from outside
	$(PYTEST) -m "not data and not browser" -n $(WORKERS) --dist loadfile

test-fast: venv  ## the quick ones, in less than 90 seconds
	$(PYTEST) -m "not slow and not data and not browser" -n $(WORKERS) --dist loadfile

test-data: venv  ## tests on the real images of SELFTAUGHT_DATA (by default ../shared/data)
	$(PYTEST) -m data

test-browser: venv  ## tests that look at pages with Chromium
	$(PYTEST) -m browser

format: venv  ## what ruff can put right by itself
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

bench: venv  ## make bench NAME=... ARGS="...": run benchmarks/NAME.py; without NAME, list them
	@if [ -n "$(NAME)" ]; then $(RUN)/python -m benchmarks.$(NAME) $(ARGS); \
	    else ls benchmarks/[a-z]*.py | grep -vE 'measure|rivals' \
	        | sed -nE 's#benchmarks/([a-z0-9_]+)\.py#  make bench NAME=\1#p'; fi

constraints: venv  ## write constraints.txt from what is installed
	$(RUN)/python -m pip freeze --exclude-editable | grep -vE '^(nvidia-|cuda-|triton)' > constraints.txt

clean:  ## caches and the demo's report; the environment stays
	rm -rf $(DEMO) .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
