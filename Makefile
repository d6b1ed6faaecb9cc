# One word a chore, the same on a laptop and in CI. The first one sets up .venv; nothing else is needed but Python 3.11+ and make.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo test test-clients check bench docs clean
.DEFAULT_GOAL := help

help:
	@echo "make demo    train a small model, serve it, call it with boto3, print what was measured"
	@echo "make test    run every test"
	@echo "make test-clients   run what people write with the sagemaker SDKs, each version in its own environment (1.5 GB, made once)"
	@echo "make check   lint, format, types, layers, generated docs"
	@echo "make bench   measure Fourfold beside its nearest peers and write docs/reference/performance.md"
	@echo "make docs    write the generated pages of docs/reference"
	@echo "make clean   remove .venv and what the tools left"

demo: .venv/ready
	@$(BIN)/python examples/01-first-endpoint.py

test: .venv/ready
	$(BIN)/python -m pytest -q -n auto --dist worksteal

test-clients: .venv/ready
	$(BIN)/python -m pytest -q -m clients -n auto --dist worksteal tests/clients

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

bench: .venv/ready
	$(BIN)/python bench/realtime.py
	$(BIN)/python bench/formats.py
	$(BIN)/python bench/serverless.py
	$(BIN)/python bench/asynchronous.py
	$(BIN)/python bench/steadiness.py
	$(BIN)/python bench/cycles.py
	$(BIN)/python bench/batch.py
	$(BIN)/python bench/multimodel.py
	$(BIN)/python bench/advisor.py

docs: .venv/ready
	$(BIN)/python docs/generate.py

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# pip 25.1 is the first that reads dependency groups.
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Fourfold needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another one: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[sklearn]' --group dev
	@touch $@
