PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

$(VENV)/ready: requirements.txt requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -r requirements-dev.txt
	touch $@

test: $(VENV)/ready
	$(BIN)/python -m pytest

.PHONY: test
