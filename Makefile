# make demo   train FREEDOM on the built-in catalogue and recommend
# make test   run every test that needs no data set
# make test-cuda    run the tests of the ops on the CUDA kernels: on the GPU, or without one on an emulated device
# make cuda-check   compile the CUDA kernels and their bindings; needs nvcc and no GPU
# Variables: PYTHON (the interpreter that makes .venv), PIP_ARGS (extra arguments of pip, e.g. an index of CPU wheels).
PYTHON ?= python3
PIP_ARGS ?=
VENV ?= .venv
BIN := $(VENV)/bin
CONFIGURE := PATH="$(abspath $(BIN)):$$PATH" cmake -S . -G Ninja -DPython_EXECUTABLE=$(abspath $(BIN)/python)
SOURCES := pyproject.toml setup.py CMakeLists.txt $(wildcard packaging/*.py csrc/* csrc/cpu/* csrc/cuda/* csrc/cuda/emulated/*)

.PHONY: demo test test-cuda cuda-check test-data lint format build clean

demo: $(VENV)/.installed
	$(BIN)/mmfast demo

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "not data"

test-cuda: $(VENV)/.installed-dev
	if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
	  MMFAST_TEST_DEVICE=cuda $(BIN)/python -m pytest tests/ops && $(BIN)/python -m pytest -m cuda tests/ops; \
	else \
	  $(CONFIGURE) -B build/emulated -DMMFAST_CUDA=0 && \
	  cmake --build build/emulated --target mmfast_emulated && \
	  MMFAST_TEST_EMULATED=build/emulated/mmfast_emulated.so $(BIN)/python -m pytest tests/ops; \
	fi

cuda-check: $(VENV)/.installed-dev
	$(CONFIGURE) -B build/kernels -DMMFAST_CUDA=kernels -DMMFAST_OUT=$(abspath build/kernels)
	cmake --build build/kernels --target cuda_kernels cuda_bindings

test-data: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m data

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	git ls-files 'csrc/*.cpp' 'csrc/*.h' 'csrc/*.cu' 'tests/*.cu' | xargs $(BIN)/clang-format --dry-run --Werror

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files 'csrc/*.cpp' 'csrc/*.h' 'csrc/*.cu' 'tests/*.cu' | xargs $(BIN)/clang-format -i

build: $(VENV)/.installed

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.packages: requirements/core.txt | $(BIN)/python
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) -r requirements/core.txt
	touch $@

$(VENV)/.installed: $(VENV)/.packages $(SOURCES)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e .
	touch $@

$(VENV)/.installed-dev: requirements/dev.txt requirements/content.txt $(VENV)/.installed
	$(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) -r requirements/dev.txt
	touch $@

clean:
	rm -rf build $(VENV) mmfast/_C*.so *.egg-info
