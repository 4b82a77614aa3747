# make demo   train FREEDOM on the built-in catalogue and recommend
# make test   run every test that needs no data set
# make test-cuda    run the tests of the ops on the CUDA kernels: on the GPU, or without one on an emulated device
# make sanitize     run the tests of the ops on CPU kernels built with AddressSanitizer and UndefinedBehaviorSanitizer
# make cuda-check   compile the CUDA kernels and their bindings; needs nvcc and no GPU
# Variables: PYTHON (the interpreter that makes .venv), PIP_ARGS (extra arguments of pip, e.g. an index of CPU wheels),
# SANITIZED (the tests of `make sanitize`; all of tests/ops otherwise), WORKERS (processes that share the tests).
PYTHON ?= python3
PIP_ARGS ?=
VENV ?= .venv
SANITIZED ?= tests/ops
WORKERS ?= 2
BIN := $(VENV)/bin
# Threads that wait for each other while other processes compute must not spin.
PYTEST := OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal
CONFIGURE := PATH="$(abspath $(BIN)):$$PATH" cmake -S . -G Ninja -DPython_EXECUTABLE=$(abspath $(BIN)/python)
SOURCES := pyproject.toml setup.py CMakeLists.txt $(wildcard packaging/*.py csrc/* csrc/cpu/* csrc/cuda/* csrc/cuda/emulated/*)

.PHONY: demo test test-cuda sanitize cuda-check test-data lint format build clean

demo: $(VENV)/.installed
	$(BIN)/mmfast demo

test: $(VENV)/.installed-dev
	$(PYTEST) -m "not data"

test-cuda: $(VENV)/.installed-dev
	if $(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then \
	  MMFAST_TEST_DEVICE=cuda $(BIN)/python -m pytest tests/ops && $(BIN)/python -m pytest -m cuda tests/ops; \
	else \
	  $(CONFIGURE) -B build/emulated -DMMFAST_CUDA=0 && \
	  cmake --build build/emulated --target mmfast_emulated && \
	  MMFAST_TEST_EMULATED=build/emulated/mmfast_emulated.so $(PYTEST) tests/ops; \
	fi

# The sanitizers are the first libraries of the process, and find C++ exceptions in libstdc++ only where it is there from
# the start, which Python does not see to. --capture=sys lets a report through although the process ends with it. Freed
# memory is kept back as far as the tests that measure memory allow.
sanitize: $(VENV)/.installed-dev
	$(CONFIGURE) -B build/sanitize -DMMFAST_CUDA=0 -DMMFAST_SANITIZE=ON -DMMFAST_OUT=$(abspath build/sanitize)
	cmake --build build/sanitize --target _C
	LD_PRELOAD="$(foreach library,asan ubsan stdc++,$$($(CXX) -print-file-name=lib$(library).so))" \
	  ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=4 UBSAN_OPTIONS=print_stacktrace=1 OMP_NUM_THREADS=2 \
	  MMFAST_TEST_EXTENSION=build/sanitize $(BIN)/python -m pytest --capture=sys $(SANITIZED)

cuda-check: $(VENV)/.installed-dev
	$(CONFIGURE) -B build/kernels -DMMFAST_CUDA=kernels -DMMFAST_OUT=$(abspath build/kernels)
	cmake --build build/kernels --target cuda_kernels cuda_bindings

test-data: $(VENV)/.installed-dev
	$(PYTEST) -m data

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
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pip install -q --disable-pip-version-check $(PIP_ARGS) --no-build-isolation -e ".[scale]"
	touch $@

clean:
	rm -rf build $(VENV) mmfast/_C*.so *.egg-info
