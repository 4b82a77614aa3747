# make demo   train FREEDOM on the built-in catalogue and recommend
# make test   run every test that needs no data set
# Variables: PYTHON (the interpreter that makes .venv), PIP_ARGS (extra arguments of pip, e.g. an index of CPU wheels).
PYTHON ?= python3
PIP_ARGS ?=
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml setup.py CMakeLists.txt $(wildcard packaging/*.py csrc/* csrc/cpu/* csrc/cuda/*)

.PHONY: demo test test-data lint format build clean

demo: $(VENV)/.installed
	$(BIN)/mmfast demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "not data"

test-data: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m data

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	git ls-files 'csrc/*.cpp' 'csrc/*.h' 'csrc/*.cu' 'csrc/*.cuh' | xargs $(BIN)/clang-format --dry-run --Werror

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files 'csrc/*.cpp' 'csrc/*.h' 'csrc/*.cu' 'csrc/*.cuh' | xargs $(BIN)/clang-format -i

build: $(VENV)/.installed

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.packages: requirements/core.txt | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) -r requirements/core.txt
	touch $@

$(VENV)/.installed: $(VENV)/.packages $(SOURCES)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e .
	touch $@

$(VENV)/.installed-dev: requirements/dev.txt $(VENV)/.installed
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) -r requirements/dev.txt
	touch $@

clean:
	rm -rf build $(VENV) mmfast/_C*.so *.egg-info
