# Two commands on a fresh machine: `make demo` and `make test`. Only python3 and make are needed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := train,convert,dev
INSTALLED := $(VENV)/.installed

.PHONY: help demo test check bench clean
help:
	@echo "make demo    train on real pictures, convert to int8, run on a camera clip: minutes, no download of data"
	@echo "make test    check, then every test"
	@echo "make check   ruff, mypy, import contracts"
	@echo "make bench   the figures of benchmarks/, as JSON lines"

# uv resolves and installs in 20 s what takes pip minutes; it comes from the index like everything else
$(INSTALLED): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable '.[$(EXTRAS)]'
	@touch $@

demo: $(INSTALLED)
	@$(BIN)/python -m examples.demo

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check
	$(BIN)/pytest

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.agent

clean:
	rm -rf demo .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
