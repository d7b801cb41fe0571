# Two commands do everything on a fresh machine: `make demo` and `make test`. Each sets up what it needs by itself.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.omnitok-setup
DOCS_STAMP := $(VENV)/.omnitok-docs
PIP := $(BIN)/python -m pip --disable-pip-version-check
FILES ?=
PYTEST_ARGS ?=

.PHONY: help setup demo app test check format docs notebooks bench wheel clean
.DELETE_ON_ERROR:

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## .venv with the package and its tools (PYTHON=python3.12 chooses the interpreter)

# Torch first and alone: it is the large one, and the rest then resolves against what is there.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "omnitok needs Python 3.11 or newer, this is " + sys.version)'
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt torch==2.13.0
	$(PIP) install -c constraints.txt -e '.[dev,demo]'
	touch $@

$(DOCS_STAMP): $(STAMP)
	$(PIP) install -c constraints.txt -e '.[docs]'
	touch $@

demo: $(STAMP) ## reconstruct real images and videos; your own: make demo FILES="a.jpg b.mp4"
	$(BIN)/omnitok demo $(FILES)

app: $(STAMP) ## a page in the browser at http://127.0.0.1:7860: reconstruct, edit tokens, generate, interpolate, inpaint, compare
	$(BIN)/omnitok app

# One process per core, one thread each: the models of the tests are too small to share among threads.
test: $(STAMP) ## all tests; some: make test PYTEST_ARGS="tests/models -k causal"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(PYTEST_ARGS)

check: $(STAMP) ## format, lint, types, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## rewrite the files in the format `check` wants
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(DOCS_STAMP) ## the documentation site, in build/site; a warning is an error
	$(BIN)/python -m sphinx -E -W --keep-going -q -d build/doctrees docs build/site
	@echo open build/site/index.html

notebooks: $(STAMP) ## execute the notebooks of examples/ and write their outputs into them
	$(BIN)/python examples/execute.py

bench: $(STAMP) ## speed of encode + decode in units of one matrix product
	$(BIN)/python benchmarks/speed.py

wheel: $(STAMP) ## build the wheel, install and use it with every Python at hand
	$(BIN)/python .ci/check_wheel.py

clean: ## remove .venv, caches and built files (not outputs)
	rm -rf $(VENV) build dist docs/examples examples/work .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find src tests benchmarks examples -name __pycache__ -type d -prune -exec rm -rf {} +
