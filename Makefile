# The environment, the default run, the tests. `make PYTHON=python3.12 ...` chooses the interpreter.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: pretrain test clean

pretrain: $(VENV)/installed
	$(BIN)/python -m ms_bert.pretrain

test: $(VENV)/installed-test
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

$(VENV)/installed: pyproject.toml constraints.txt setup.py $(wildcard ms_bert/kernels/native/*.h ms_bert/kernels/native/*.cpp)
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(INSTALL) --editable .[test]
	touch $@

clean:
	rm -rf $(VENV) *.egg-info
