# The one set-up that a fresh machine needs: `make serve` and `make test` install what is missing.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
CASES ?= 5000
# Test files at a time. Each computes in one thread, as models this small want it.
JOBS ?= 2
# Where a machine without an NVIDIA GPU looks for the small CPU build of torch before the ordinary
# index is asked. Empty: only the ordinary index. A source that cannot be reached breaks nothing.
TORCH_INDEX ?= $(if $(shell nvidia-smi -L 2>/dev/null),,https://download.pytorch.org/whl/cpu)

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: serve test fuzz test-clients gpu check install clean

serve: $(STAMP)
	$(BIN)/python launcher.py $(ARGS)

test: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

# Many more cases than `make test` has, for a nightly run.
fuzz: $(STAMP)
	$(BIN)/python -m pytest tests/fuzz --cases $(CASES) $(ARGS)

# Other people's clients, each in an environment of its own under .venv-clients; needs an index.
test-clients: $(STAMP)
	$(BIN)/python tests/clients/isolated $(ARGS)

gpu: $(STAMP)
	$(BIN)/python -m pytest -m gpu tests/gpu $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
ifneq ($(TORCH_INDEX),)
	-$(PIP) install --quiet --retries 0 --no-deps --constraint constraints.txt \
		--extra-index-url $(TORCH_INDEX) torch
endif
	$(PIP) install --quiet --constraint constraints.txt --editable ".[dev,benchmark]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
