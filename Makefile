# `make` alone lists the targets. Each makes the environment that it needs.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
SOURCES := Cargo.toml Cargo.lock pyproject.toml \
           $(shell find rust python kernels -type f \( -name '*.rs' -o -name '*.toml' -o -name '*.py' -o -name '*.pyi' -o -name '*.jsonl*' -o -name '*.js' -o -name '*.css' \) 2>/dev/null)

export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
export MKL_NUM_THREADS ?= 1

.DEFAULT_GOAL := help
.PHONY: help demo test test-rust test-python soak test-verl test-search test-triton compile-oldest lint wheel docs bench clean

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 14

demo: $(BIN)/.demo  ## Build and install the wheel, run the main job on bundled rollouts, write report.html
	$(BIN)/apportion demo

test: test-rust test-python  ## Install what the tests need and pass all of them

test-rust:  ## The core's tests alone
	cargo test --workspace --quiet

test-python: $(BIN)/.dev  ## The Python tests alone
	$(BIN)/python -m pytest $(ARGS)

test-verl:  ## Compare with verl's own estimators, in an environment with verl
	PYTHON=$(PYTHON) sh tests/verl/run.sh $(ARGS)

test-search:  ## Search with a small language model, behind a server, and on Ray, in an environment of its own
	PYTHON=$(PYTHON) sh tests/search/run.sh $(ARGS)

test-triton:  ## Compile and interpret the kernels with the oldest supported Triton
	PYTHON=$(PYTHON) sh tests/kernels/oldest_triton.sh $(ARGS)

compile-oldest: $(BIN)/.dev  ## Compile the kernels with the oldest Triton that is tested, without a GPU
	sh tests/kernels/compile_oldest.sh $(BIN)/python

soak: $(BIN)/.dev  ## Kill searches that log, 200 times each, and compare them with unbroken ones
	$(BIN)/python tests/soak/kill_resume.py $(ARGS)

lint: $(BIN)/.dev  ## Formatters, linters, type checker, stub checker
	git ls-files -z 'rust/*.rs' | xargs -0 rustfmt --check --edition 2024
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	RUSTDOCFLAGS='-D warnings -A rustdoc::private-intra-doc-links' cargo doc --workspace --no-deps --quiet
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest apportion._core

wheel: $(BIN)/.build  ## Build the wheel and the source distribution into dist/
	$(BIN)/maturin build --release --out dist
	$(BIN)/maturin sdist --out dist
	@ls -l dist

docs:  ## Build the documentation into site/, strictly
	PYTHON=$(PYTHON) sh docs/build.sh

bench:  ## Benchmarks against the trainers: [ONLY=credit] [QUICK=1] [OUT=DIR]
	PYTHON=$(PYTHON) ONLY=$(ONLY) QUICK=$(QUICK) OUT=$(OUT) sh benches/run.sh

clean:  ## Remove environments and build outputs
	rm -rf .venv* target dist site report.html

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(BIN)/.build: $(BIN)/python
	$(BIN)/python -m pip install --quiet 'maturin>=1.12.1,<2'
	touch $@

$(BIN)/.demo: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install --quiet .
	touch $@

$(BIN)/.dev: $(BIN)/python $(SOURCES)
	$(BIN)/python -m pip install --quiet '.[dev,cli,report,torch,trl]'
	touch $@ $(BIN)/.demo
