# Two commands for a newcomer: `make demo` and `make test`. Both make the environment first.
PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed
# What tests compile is kept for the next time.
TEST := CBERL_TEST_COMPILED=$(VENV)/compiled $(VENV)/bin/python -m pytest

.PHONY: setup demo test test-all types bench features compilers fuzz lint lock licences audit clean

setup: $(STAMP)

$(STAMP): requirements.lock setup.cfg pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "cberl-jax needs Python 3.11 or newer; name one with: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup
	$(VENV)/bin/python experiments/train.py --config=experiments/configs/demo.py --workdir=runs/demo --seeds=4

# What is tested before every commit: style, types, and all tests but the slow ones.
test: setup types
	$(VENV)/bin/python -m ruff check .
	$(VENV)/bin/python -m ruff format --check .
	$(TEST) -m "not slow"

# The slow ones: killed runs, several processes, every command of the README, full optimisation.
test-all: setup
	$(TEST) -m slow

# The annotations of the public interface; setup.cfg names the files.
types: setup
	$(VENV)/bin/python -m mypy

# For the benchmark, and the test that compares every layer with PyTorch.
bench: setup
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[bench]' --no-build-isolation

# For experiments/extract.py, and its tests; and for those of --metrics=wandb and cberl search.
features: setup
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[faces,features,search,wandb]' --no-build-isolation

# The compiler for GPUs, for the test of cberl benchmark --target; it needs no GPU. It lies beside the
# environment, in which jax would look for a device at every start.
compilers: setup
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
	  --target $(VENV)/compilers $$($(VENV)/bin/python -c \
	  'from jax import __version__ as v; print(f"jax-cuda12-plugin=={v} jax-cuda12-pjrt=={v}")')

# Damages files for the readers, guided by coverage, for so many minutes each; see tests/fuzz.py.
MINUTES ?= 10
fuzz: setup
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[fuzz]' --no-build-isolation
	for reader in pickle npz lines config; do \
	  $(VENV)/bin/python tests/fuzz.py $$reader -max_total_time=$$((60 * $(MINUTES))) || exit 1; \
	done

lint: setup
	$(VENV)/bin/python -m ruff check --fix .
	$(VENV)/bin/python -m ruff format .

# Renews the versions that are tested. The package index is the one that pip is set up for.
lock: setup
	$(VENV)/bin/python -m pip install --quiet pip-tools
	$(VENV)/bin/python -m piptools compile --quiet --upgrade --generate-hashes --allow-unsafe --strip-extras \
	  --extra test --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	  --no-header --no-annotate --output-file requirements.lock setup.cfg

# The table in docs/dependencies.md, from what is installed.
licences: setup
	$(VENV)/bin/python -m pip install --quiet pip-licenses
	sed -i '/^|/d' docs/dependencies.md
	$(VENV)/bin/pip-licenses --with-system --format=markdown --packages \
	  $$(grep -o '^[a-zA-Z0-9_.-]*==' requirements.lock | tr -d =) >> docs/dependencies.md

# Known vulnerabilities of the locked versions; needs access to the database of the package index.
audit: setup
	$(VENV)/bin/python -m pip install --quiet pip-audit
	$(VENV)/bin/pip-audit --requirement requirements.lock --require-hashes --disable-pip

# The pages of docs/ and the Python reference; a warning is an error.
.PHONY: docs
docs: setup
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -e '.[docs]' --no-build-isolation
	$(VENV)/bin/python -m sphinx -c docs -b html -W --keep-going --quiet . build/html
	@echo build/html/docs/index.html

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
