# `make demo`: a first comparison from nothing; `make test`: the suite; `make docs`: the documentation, into site/;
# `make evidence-quick`: a small version of what is behind every table, in under half an hour.
# They need only python3 (3.11 or later), make and git.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Real images, where they lie beside the checkout; otherwise set CHEAPLIP_DATA yourself, or let them be downloaded.
ifneq ($(wildcard ../shared/data/mnist),)
export CHEAPLIP_DATA ?= $(abspath ../shared/data)
endif

.PHONY: demo test lint docs evidence-quick clean

demo: $(VENV)/cli,report.done
	$(BIN)/cheaplip compare digits --methods plain,weight,clip,scale-free,adversarial --out results/demo --overwrite

test: $(VENV)/dev.done
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

lint: $(VENV)/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/docs.done
	NO_MKDOCS_2_WARNING=1 PATH="$(abspath $(BIN)):$$PATH" $(BIN)/mkdocs build --strict

evidence-quick: $(VENV)/dev.done
	$(BIN)/python benchmarks/evidence.py

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/%.done: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) results/demo site
