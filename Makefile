# `make help` says what there is. Every target sets up what it needs first, and only once.
# PYTHON=/path/to/python3.12 picks the interpreter; otherwise the newest supported one is found.

PY := .venv/bin/python
BIN := .venv/bin
# Need a newer JAX than Python 3.11 can install, and say so when they are called; not type-checked there.
NEWER_JAX := pallas_kernels/_interpret.py pallas_kernels/*/mosaic_gpu*.py
CODE := pallas_kernels sparsevdit_jax models experiments tests

# Compiled modules are kept, and pytest's rewritten tests with them: a second run starts in half the time.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup setup-demo test test-all demo report lint format types check bench gpu-check train clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Hidden dependencies, not meant to be called: `test` and `demo` call them.
setup:
	@PYTHON="$(PYTHON)" bash .ci/setup.sh test

setup-demo:
	@PYTHON="$(PYTHON)" bash .ci/setup.sh demo

demo: setup-demo ## the same clip with dense and sparse attention: out/demo/ (SEED=7 DIGIT=5 ARGS=--all)
	$(PY) -m experiments.demo $(if $(SEED),--seed "$(SEED)") $(if $(DIGIT),--digit "$(DIGIT)") $(ARGS)

report: setup-demo ## everything measured on one page, from the committed records: out/report/
	$(PY) -m experiments.report $(ARGS)

test: lint ## format, lint, types, import contracts, then all tests (ARGS="-k name")
	$(PY) -m pytest -n 2 --dist worksteal $(ARGS)

test-all: lint ## make test, with the tests that take minutes each, everything compiled with all optimisations: about an hour
	$(PY) -m pytest -n 2 --dist worksteal --optimised -m "not gpu" $(ARGS)

lint: setup ## the checks of `make test` that run no code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@if [ -d .venv/lib/python3.11 ]; then set -- $(foreach f,$(NEWER_JAX),--project-excludes '$f'); fi; $(BIN)/pyrefly check "$$@"
	$(BIN)/lint-imports

format: setup ## rewrite the code the way `make lint` wants it
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup ## time sparse against dense attention on this CPU (ARGS="--help")
	$(PY) -m experiments.bench_cpu $(ARGS)

# A GPU machine has its own jax for its own CUDA, so nothing is set up where python3 has one.
gpu-check: ## check, then time, the GPU kernels of this machine (ARGS="--minutes 8"; anywhere: ARGS="--dry-run --minutes 2")
	@has='import sys; from importlib.util import find_spec as f; sys.exit(not (f("jax") and f("flax")))'; \
	python="$(or $(PYTHON),python3)"; "$$python" -c "$$has" 2>/dev/null || python=$(PY); \
	"$$python" -c "$$has" || { echo "gpu-check: give a Python that has jax and flax: make gpu-check PYTHON=..." >&2; exit 1; }; \
	"$$python" -m experiments.gpu_check $(ARGS)

train: setup ## train the demo's model, for hours; resumes (ARGS="--help")
	$(PY) -m experiments.train_tiny $(ARGS)

clean: ## delete the environment and all caches; keeps out/
	[ ! -f .venv/.made-by-sparsevdit-jax ] || rm -rf .venv
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find $(CODE) -name __pycache__ -type d -prune -exec rm -rf {} +
