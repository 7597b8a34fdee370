# The environment, the default run, the tests, the linters. `make PYTHON=python3.12 ...` chooses the interpreter.

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin
# The linters have an environment of their own: what they say must not depend on which frameworks are installed.
LINT := $(VENV)-lint
LINTERS := ruff mypy clang-format numpy types-tqdm
PIP_INSTALL := pip install --quiet --disable-pip-version-check --constraint constraints.txt
INSTALL := $(BIN)/$(PIP_INSTALL)
NATIVE := $(wildcard ms_bert/kernels/native/*.h ms_bert/kernels/native/*.cpp)

TESTS := tests/faults tests/parity tests/unit tests/conversion tests/benchmarks tests/readme

.PHONY: pretrain test full quick lint sanitize clean

pretrain: $(VENV)/installed
	$(BIN)/python -m ms_bert.pretrain --phases 32x128x600

# First what watches the memory of forked processes, while the workers are small; then what takes longest, so that no
# worker waits for another at the end. By itself xdist begins with the files that have most tests. Threads of PyTorch
# that wait let the other worker have the processor: by themselves they would spin, and all would take an eighth longer.
# `make full` runs the cases that are marked as full too.
full: MARKED := -m ""
test full: export OMP_WAIT_POLICY := passive
# Where the environment forbids it to keep compiled modules, each command that a test starts would compile them anew.
test full: export PYTHONDONTWRITEBYTECODE :=
test full: $(VENV)/installed-test
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(MARKED) $(TESTS)

# The tests to run while one works: those of modules by themselves, without what is marked as slow.
quick: $(VENV)/installed-test
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile -m "not slow and not full" tests/unit tests/conversion

lint: $(LINT)/installed
	$(LINT)/bin/ruff check --quiet .
	$(LINT)/bin/ruff format --quiet --check .
	$(LINT)/bin/mypy
	$(LINT)/bin/clang-format --dry-run --Werror $(NATIVE)

# The C++ kernels under AddressSanitizer and UndefinedBehaviorSanitizer, each instruction set that this machine has.
sanitize: $(VENV)/installed-test
	MS_BERT_SANITIZE=1 $(BIN)/python setup.py --quiet build_ext --build-lib build/sanitized --build-temp build/temporary
	LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
	UBSAN_OPTIONS=halt_on_error=1 MS_BERT_KERNELS=build/sanitized/ms_bert/kernels/native/libms_bert_kernels.so \
	$(BIN)/python -m pytest tests/unit/test_native.py -p no:cacheprovider

$(VENV)/installed: pyproject.toml constraints.txt setup.py $(NATIVE)
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable .[mindspore]
	touch $@

# All of that and more, at once, so that the kernels are compiled once.
$(VENV)/installed-test: pyproject.toml constraints.txt setup.py $(NATIVE)
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable .[test]
	touch $(VENV)/installed $@

$(LINT)/installed: constraints.txt
	$(PYTHON) -m venv $(LINT)
	$(LINT)/bin/$(PIP_INSTALL) $(LINTERS)
	touch $@

clean:
	rm -rf $(VENV) $(LINT) *.egg-info
