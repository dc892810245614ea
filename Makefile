# Every target sets up what it needs in .venv; nothing else on the machine is touched.
PYTHON ?= $(shell command -v python3.12 || command -v python3.13 || command -v python3)
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test lint validate bench clean

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

demo: $(READY)  ## simulate a sky, calibrate it, print truth beside posterior
	rm -rf runs/demo
	$(BIN)/hbcal demo --out runs/demo

test: $(READY)  ## the fast honest set
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

validate: $(READY)  ## the slow statistical set, and the real catalogues
	$(BIN)/python -m pytest -m slow
	$(BIN)/python -W ignore benchmarks/kepler_tenfold.py
	$(BIN)/python -W ignore benchmarks/reference.py
	$(BIN)/python -W ignore benchmarks/seismic_drop_one.py

bench: $(READY)  ## every number a ratio to a rival in the same run
	$(BIN)/python -W ignore benchmarks/textbook_vs_pymc.py

clean:
	rm -rf .venv runs build *.egg-info
