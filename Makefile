# `make train` trains a model from a fresh clone. It installs all packages into .venv.
PYTHON ?= python3
# Options for pip. For PyTorch without CUDA: PIP_FLAGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
CONFIG ?= configs/sample.yaml
ARGS ?=
CORES ?= $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
# Quiet twice hides pip's warnings about package indexes. Errors are still shown.
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check --constraint constraints.txt $(PIP_FLAGS)

# The tests whose results depend on how the processor rounds.
NUMERIC := $(addprefix tests/test_,conditioning.py cpu_kernels.py evaluation.py generation.py modeling.py optimization.py stock.py)

.PHONY: train test test-slow test-numeric test-versions lint format demo clean

train: $(VENV)/.installed
	$(BIN)/accelerate launch --quiet --config_file configs/accelerate/cpu.yaml --num_cpu_threads_per_process $(CORES) \
		train_hf.py --config $(CONFIG) $(ARGS)

test: $(VENV)/.installed-test lint
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 -m "not slow"

test-slow: $(VENV)/.installed-test-slow
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -m slow

# Simulates other processors: first without vector instructions and with one thread, then with AVX2, which most have.
test-numeric: $(VENV)/.installed-test
	ATEN_CPU_CAPABILITY=default OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 -m "not slow" $(NUMERIC)
	ATEN_CPU_CAPABILITY=avx2 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 -m "not slow" $(NUMERIC)

# Tests a model with every minor release of transformers, or only with some: RELEASES="5.0.0 5.24.0".
test-versions: $(VENV)/.installed-test
	$(BIN)/python tests/releases.py $(RELEASES)

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: $(VENV)/.installed-space
	MODEL=$${MODEL:-runs/sample} $(BIN)/python space/app.py

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else f"LyricGPT needs Python 3.11 or newer, but {sys.executable} is {sys.version.split()[0]}. Name a newer one: make PYTHON=python3.12 …")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "installing the pinned packages into $(VENV) (only once, a minute or two)"
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) --editable '.[test]'
	@touch $@

# The page is tested in a browser. If there is none, root on Debian installs Chromium. Otherwise those tests are skipped.
$(VENV)/.installed-test-slow: $(VENV)/.installed-test
	$(PIP) --editable '.[test,test-slow]'
	@for name in chromium chromium-browser google-chrome chrome; do command -v $$name >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		apt-get update --quiet=2 && DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes chromium >/dev/null; \
	fi; command -v chromium >/dev/null || echo "no Chromium found: the tests that need a browser will be skipped"
	@touch $@

$(VENV)/.installed-space: $(VENV)/.installed
	$(PIP) --editable '.[space]'
	@touch $@

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache *.egg-info
