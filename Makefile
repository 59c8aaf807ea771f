# `make demo`: a first comparison from nothing; `make test`: the suite. Both need only python3 (3.11 or later), make and git.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Real images, where they lie beside the checkout; otherwise set CHEAPLIP_DATA yourself, or let them be downloaded.
ifneq ($(wildcard ../shared/data/mnist),)
export CHEAPLIP_DATA ?= $(abspath ../shared/data)
endif

.PHONY: demo test lint clean

demo: $(VENV)/cli,report.done
	$(BIN)/cheaplip compare digits --out results/demo --overwrite

test: $(VENV)/dev.done
	$(BIN)/python -m pytest

lint: $(VENV)/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/%.done: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) results/demo
