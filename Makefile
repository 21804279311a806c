# Everything a user or developer types. `make` alone lists it.

PYTHON ?= python3
TRIALS ?= 50
STORE  ?= mlruns
ARGS   ?=

# Without an NVIDIA driver: torch's CPU build, which is smaller by gigabytes. `TORCH_INDEX=` leaves the choice to pip.
TORCH_INDEX ?= $(shell [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null && [ ! -e /proc/driver/nvidia ] \
	&& echo https://download.pytorch.org/whl/cpu)

PY     := .venv/bin/python
export MLFLOW_DISABLE_TELEMETRY := true
export STORE IMAGES
unexport PYTHONDONTWRITEBYTECODE  # without bytecode every command compiles 3,000 modules, which doubles its start

.DEFAULT_GOAL := help
.PHONY: help install study ui dashboard serve report bench format lint check test test-long test-all test-cluster coverage torture \
	clean clean-store

help:
	@echo 'make study      set up, get CIFAR-10, run a sweep of TRIALS=50 trials, write the report'
	@echo '                options go into ARGS: make study TRIALS=5 ARGS="--seed 1" (ARGS=--help lists them)'
	@echo '                IMAGES=DIR: your own pictures in place of CIFAR-10 (docs/own-images.md)'
	@echo 'make ui         browse the runs with MLflow on http://127.0.0.1:5000 (PORT=5000)'
	@echo 'make dashboard  the searches in optuna-dashboard, to look at, on http://127.0.0.1:8080 (PORT=8080)'
	@echo 'make serve      the champion over HTTP, with MLflow on http://127.0.0.1:5001 (PORT=5001)'
	@echo 'make report     write the build-vs-buy report again'
	@echo 'make clean-store  list what can be removed from the store, and remove it (ARGS=--yes: no question)'
	@echo '                STORE=DIR: study, ui, dashboard, serve, report and clean-store work on the store there, in place of mlruns'
	@echo 'make bench      time the trainer against a bare loop, the usual way and the ceiling, and more (ARGS=--help)'
	@echo 'make install    only the set-up: .venv with pinned versions (PYTHON=python3, 3.11 or newer; TORCH_INDEX=URL: where'
	@echo '                torch comes from, by default its CPU build on Linux without an NVIDIA driver)'
	@echo 'make clean      remove .venv and caches; mlruns/ and the data set stay'
	@echo 'For developers:'
	@echo 'make format     ruff: sort imports, format'
	@echo 'make lint       ruff and mypy'
	@echo 'make check      ruff, mypy and the quick tests, in about a minute'
	@echo 'make test       ruff, mypy and all tests but long and cluster ones (ARGS="-k console": some)'
	@echo 'make test-long  whole sweeps from end to end, a short torture'
	@echo 'make test-all   all tests but those of a cluster, without ruff and mypy'
	@echo 'make coverage   the same, with the share of lines that they run'
	@echo 'make test-cluster  sweeps on a Ray cluster of two nodes on this machine, and on PostgreSQL where that is installed; installs Ray first'
	@echo 'make torture    kill, stop and starve sweeps for about an hour; an oracle compares what is left (ARGS=kills: one phase)'

# The stamp is touched last, so a set-up that was cut short is done again, and a finished one is not.
install: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "Python 3.11 or newer is needed, but '$(PYTHON)' is $$($(PYTHON) --version 2>/dev/null || echo missing). Name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Setting up .venv with $$(grep -c == constraints.txt) pinned packages; this takes a minute or two, once."
	@$(PYTHON) -m venv .venv
	@[ -z '$(TORCH_INDEX)' ] || $(PY) -m pip install --disable-pip-version-check --no-compile -c constraints.txt --no-deps --timeout 10 --retries 0 \
		--index-url '$(TORCH_INDEX)' torch torchvision || echo "$(TORCH_INDEX) does not have torch, or does not answer; pip takes its usual build."
	@$(PY) -m pip install --disable-pip-version-check --no-compile -c constraints.txt -e '.[adapt,dev]'
	@$(PY) -c 'import sweeps.run_study, experiments.compare'  # compiles what the commands load, a fifth of what pip would
	@touch $@

study: install
	@$(PY) sweeps/run_study.py --trials $(TRIALS) --store "$$STORE" $${IMAGES:+--images "$$IMAGES"} $(ARGS)

ui: PORT ?= 5000
ui: install
	@$(PY) experiments/ui.py --store "$$STORE" --port $(PORT) $(ARGS)

dashboard: PORT ?= 8080
dashboard: install
	@$(PY) experiments/dashboard.py --store "$$STORE" --port $(PORT) $(ARGS)

serve: PORT ?= 5001
serve: install
	@$(PY) experiments/serve.py --store "$$STORE" --port $(PORT) $(ARGS)

clean-store: install
	@$(PY) experiments/clean_store.py --store "$$STORE" $(ARGS)

report: install
	@$(PY) experiments/compare.py --store "$$STORE" $(ARGS)

bench: install
	@$(PY) -m experiments.benchmarks $(ARGS)

format: install
	@$(PY) -m ruff check --fix --select I .
	@$(PY) -m ruff format .

lint: install
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

check: lint
	@$(PYTEST) -m 'not slow and not long and not cluster' $(ARGS)

test: lint
	@$(PYTEST) -m 'not long and not cluster' $(ARGS)

test-long: install
	@$(PYTEST) -m 'long and not cluster' $(ARGS)

test-all: install
	@$(PYTEST) -m 'not cluster' $(ARGS)

test-cluster: install
	@$(PY) -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev,cluster]'
	@OMP_NUM_THREADS=1 $(PY) -m pytest -m cluster $(ARGS)

coverage: install
	@$(PYTEST) -m 'not cluster' --cov=cifar_core --cov=sweeps --cov=experiments --cov-report=term:skip-covered $(ARGS)

torture: install
	@OMP_NUM_THREADS=1 $(PY) -m tests.torture.driver $(ARGS)

clean:
	rm -rf .venv build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage
	find cifar_core sweeps experiments tests -name __pycache__ -type d -prune -exec rm -rf {} +
