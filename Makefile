# Two commands do everything on a fresh machine: `make quickstart` and `make test`.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
OUT    ?= runs/quickstart
# Processes that share the tests, file by file: one per core, at most four. `make test WORKERS=0` runs them in one.
WORKERS ?= auto

.PHONY: quickstart test lint env gemma worlds clean help

help:            ## list the targets
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

quickstart: $(VENV)/.ready   ## make the environment, run the quickstart, say where the report is
	$(BIN)/hybrid run configs/quickstart.yaml --out $(OUT)
	@echo "The placement report: $(OUT)/report/placement.html (also .md and .json)"

test: $(VENV)/.ready         ## make the environment, check style, types and layers, run every test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.ready         ## style, types and layers only
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

env: $(VENV)/.ready          ## make the environment

$(VENV)/.ready: pyproject.toml scripts/install_torch.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python scripts/install_torch.py
	$(BIN)/python -m pip install --quiet -e '.[train,quant,dev]'
	$(BIN)/python -m pip install --quiet --no-deps bfcl-eval
	@touch $@

gemma: $(VENV)/.ready        ## Gemma 3 270M on real data, on the CPU
	$(BIN)/python -m pip install --quiet -e '.[demo]'
	$(BIN)/python -m pip install --quiet --no-deps bfcl-eval
	$(BIN)/python scripts/prepare_gemma.py --out data/gemma-model
	$(BIN)/hybrid run configs/gemma-270m.yaml --out runs/gemma-270m

worlds: $(VENV)/.ready       ## ten worlds of known truth, every arm trained (half an hour)
	$(BIN)/python scripts/bench_worlds.py --seeds 0-9

clean:           ## remove the environment and all runs
	rm -rf $(VENV) runs
