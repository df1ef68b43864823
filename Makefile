PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
DATA ?= fairface_aligned_128.zip
LABELS ?= labels.csv

$(VENV)/ready: requirements.txt requirements-dev.txt requirements-ray.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -r requirements-dev.txt
	touch $@

test: $(VENV)/ready
	$(BIN)/python -m pytest -n 2 --dist loadfile

demo: $(VENV)/ready
	$(BIN)/python -m docs.demo

# Everything that comes with the project, anew: make bundled DATA=faces.zip LABELS=labels.csv. Each stage goes on where it stopped.
bundled: $(VENV)/ready
	BIN=$(BIN) DATA=$(DATA) LABELS=$(LABELS) training/bundled.sh

.PHONY: demo test bundled
