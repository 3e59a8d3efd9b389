# Everything runs in a virtual environment of its own, made on first use from constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: demo test lint fast slow ui clean help

help:  ## Say what can be made
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 8

demo: $(READY)  ## Pre-train three tiny variants and rank them while they train
	$(BIN)/softprompt demo demo

CHARTS := http://127.0.0.1:5000/\#/experiments/1/runs?compareRunsMode=CHART&orderByKey=metrics.%60accuracy%2Fmean%60&orderByAsc=false

ui: $(READY)  ## Serve the MLflow UI on the demo
	@echo 'The variants side by side: $(CHARTS)'
	MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow server \
	    --backend-store-uri sqlite:///demo/mlflow.db --default-artifact-root demo/mlartifacts --port 5000

PYTEST := $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

test: lint $(READY)  ## Lint, types, import rules, tests
	$(PYTEST) -m "not gpu"

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fast: $(READY)  ## The quick tests alone
	$(PYTEST) -m "not slow and not gpu"

slow: $(READY)  ## The tests with a Prefect server and a worker
	$(PYTEST) -m slow

clean:  ## Remove what the demo made
	rm -rf $(filter-out demo/study.toml,$(wildcard demo/*))

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $(READY)
