# Everything runs in .venv, which is made from pyproject.toml and the pinned versions when needed.

PYTHON ?= python3
CONSTRAINTS ?= constraints/cpu.txt
PIP_ARGS ?=
SLOW_TESTS ?= slow
SLURM_TESTS ?= slurm
RAW ?= $(or $(BIOMAMBA_REAL_DATA),$(wildcard ../shared/data),raw)
JOBS ?= 1
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INTERPRETER := .venv-interpreter

.DEFAULT_GOAL := help
.PHONY: help install demo reproduce-small reproduce-embedded test test-slow test-slurm test-browser test-interpreter test-all soak end-faults paired-tests check format clean

help: ## show this list
	@echo "usage: make <target> [PYTHON=python3.12] [CONSTRAINTS=constraints/cuda.txt] [PIP_ARGS=...] [RAW=<folder>]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

install: $(INSTALLED) ## make .venv with the package and its tools, at pinned versions

$(INSTALLED): pyproject.toml $(wildcard constraints/*.txt)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "error: Python >= 3.11 is needed, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1 | head -n 1);" \
			"name another one: make PYTHON=python3.12 ..."; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
		echo "error: '$(PYTHON) -m venv' failed; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "Installing into $(VENV) from $(CONSTRAINTS): 2 to 10 minutes the first time ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) \
		--editable '.[dev]' --constraint $(CONSTRAINTS)
	@touch $@

demo: $(INSTALLED) ## train, adapt and evaluate a tiny model on the embedded text (CPU, minutes)
	rm -rf runs/demo
	$(BIN)/python -m biomamba.prepare
	$(BIN)/python -m biomamba.train +experiment=demo/pretrain
	$(BIN)/python -m biomamba.train +experiment=demo/adapt
	$(BIN)/python -m biomamba.evaluate +experiment=demo/evaluate
	@echo "run folder: runs/demo"
	@echo "curves:     $(BIN)/tensorboard --logdir runs/demo   (then open the address it prints)"

# Either continues where it was stopped when it is called again; docs/reproducing.md.
reproduce-small: $(INSTALLED) ## real text (RAW=<folder>) to a report: base, adapted, fine-tuned (CPU, half an hour)
	@test -d "$(RAW)" || { \
		echo "error: no raw files at '$(RAW)': name their folder, make reproduce-small RAW=<folder>" \
			"(docs/results/real_text.md lists them), or run make reproduce-embedded, which needs none"; exit 1; }
	$(BIN)/python -m biomamba.reproduce chain=small jobs=$(JOBS) paths.raw_dir="$(RAW)"

reproduce-embedded: $(INSTALLED) ## the same line on embedded text, which needs no files (CPU, minutes)
	$(BIN)/python -m biomamba.reproduce chain=embedded jobs=$(JOBS)

# One thread per process: tests are many small computations, some with several processes.
SIDE_BY_SIDE := --numprocesses auto --maxprocesses 4 --dist worksteal
test test-slow test-slurm test-browser: export OMP_NUM_THREADS = 1

test: $(INSTALLED) ## run the fast tests (offline, CPU)
	$(BIN)/python -m pytest -q $(SIDE_BY_SIDE)

test-slow: $(INSTALLED) ## run the tests that take more than 10 s each
	$(BIN)/python -m pytest -q $(SIDE_BY_SIDE) --durations=25 \
		-m "$(SLOW_TESTS) and not gpu and not network"

test-slurm: $(INSTALLED) ## run jobs on a SLURM of its own (needs slurmctld, slurmd, slurm-client, munge)
	$(BIN)/python -m pytest -q --numprocesses 3 --dist worksteal -m "$(SLURM_TESTS)" tests/slurm

test-browser: $(INSTALLED) ## look at TensorBoard and the report in Chromium (Debian: apt install chromium)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) \
		--constraint constraints/common.txt playwright
	$(BIN)/python -m pytest -q -m browser tests/browser

# Triton's interpreter runs the kernels of mamba-ssm and liger-kernel on the CPU; its packages stay out of .venv.
test-interpreter: $(INTERPRETER)/.installed ## run the Triton kernels without a GPU (its own environment, 1 to 3 minutes)
	OMP_NUM_THREADS=1 $(INTERPRETER)/bin/python -m pytest -q --noconftest -o pythonpath=benchmarks \
		tests/test_fused_kernels.py tests/test_liger_loss.py

$(INTERPRETER)/.installed: constraints/interpreter.txt
	@test -x $(INTERPRETER)/bin/python || $(PYTHON) -m venv $(INTERPRETER)
	@echo "Installing into $(INTERPRETER) from constraints/interpreter.txt: about 2 minutes the first time ..."
	@grep -v '^#\|^mamba-ssm' constraints/interpreter.txt | \
		$(INTERPRETER)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -r /dev/stdin
	@MAMBA_FORCE_BUILD=TRUE MAMBA_SKIP_CUDA_BUILD=TRUE $(INTERPRETER)/bin/python -m pip install --quiet \
		--disable-pip-version-check $(PIP_ARGS) --no-build-isolation --no-deps \
		"$$(grep '^mamba-ssm' constraints/interpreter.txt)"
	@touch $@

test-all: test test-slow ## run both; what needs a GPU is listed in docs/gpu-checks.md

soak: $(INSTALLED) ## stop a run 20 times, resume it with 1, 2 and 4 ranks, compare (8 minutes)
	$(BIN)/python benchmarks/soak.py

end-faults: $(INSTALLED) ## kill runs 30 times while they end, start them again, compare (12 minutes)
	$(BIN)/python benchmarks/end_faults.py

paired-tests: $(INSTALLED) ## simulate how often intervals hold and tests reject (5 to 15 minutes)
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/paired_tests.py

check: $(INSTALLED) ## check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED) ## format the code and fix what the linter can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove .venv, caches and build products (data/ and runs/ stay)
	rm -rf $(VENV) $(INTERPRETER) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
	find biomamba tests -name __pycache__ -type d -prune -exec rm -rf {} +
