# Everything here works on a fresh machine with Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Two workers: the servers and the real Litestream want a share of the machine too.
WORKERS ?= 4

.PHONY: help setup servers demo test soak modes bench lint format clean

help:  ## show these lines
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --group dev -e '.[all]'
	@touch $@

setup: $(STAMP)  ## make the virtual environment

servers: setup  ## install the storage servers that the tests start
	$(BIN)/python -m tests.servers.install

demo: setup  ## replicate a live database to a folder, query it there, restore it
	$(BIN)/python examples/demo.py

lint: setup  ## ruff and mypy --strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Kills, cuts and clocks on a busy machine: a test that fails is tried again, and the summary counts it.
test: servers lint  ## every test but the soak
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m 'not soak' --reruns 2

soak: servers  ## the long ones: minutes to hours
	$(BIN)/python -m pytest -n 2 --dist loadgroup -m soak --timeout 0

modes: servers  ## the reader's acceptance tests with every way to read ahead, every cache, every local copy
	$(BIN)/python -m pytest tests/vfs -n 2 --dist loadgroup -m modes --reruns 1

bench: setup  ## the figures of the README, against the real Litestream
	$(BIN)/python -m bench

format: setup  ## rewrite the sources in the house's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove what the other targets made
	rm -rf $(VENV) .cache build dist demo-data
