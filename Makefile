# make demo and make test do all the set-up themselves, in this folder and without root. Python 3.9 or newer.
# Variables (on the command line or in the environment):
#   PYTHON        the interpreter the virtual environment is made from
#   REQUIREMENTS  requirements.txt (CPU) or requirements-gpu.txt
#   CUDA          True lets the demo use a GPU where there is one

PYTHON ?= python3
REQUIREMENTS ?= requirements.txt
CUDA ?= False

# Relative paths only, so that the folder's own path may hold spaces.
VENV := .venv
PY := $(VENV)/bin/python
VENV_STAMP := $(VENV)/made
RUNTIME_STAMP := $(VENV)/installed.$(REQUIREMENTS)
DEV_STAMP := $(VENV)/installed.requirements-dev.txt
# PaddlePaddle 2.6.2, the oldest that is supported, has an environment of its own.
OLDEST_VENV := .venv-2.6.2
OLDEST_STAMP := $(OLDEST_VENV)/installed.requirements-2.6.2.txt
PIP_INSTALL := $(PY) -m pip install --disable-pip-version-check --prefer-binary

DEMO := results/demo

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv venv-dev venv-oldest demo demo-data demo-train demo-shipped test test-all test-newest test-oldest \
        fuzz alignment lint clean

help:
	@echo "make demo     set up, train a small network on drawn shapes, evaluate it: see $(DEMO)/"
	@echo "make test     set up and run the tests"
	@echo "make test-all set up and run what CI runs: lint and types, the tests with branch coverage and long fuzzing,"
	@echo "              the README's commands, the tests with PaddlePaddle 2.6.2"
	@echo "make alignment"
	@echo "              measure how far the networks are from the original's figures, stage by stage"
	@echo "make lint     set up and run ruff and mypy"
	@echo "make venv     the virtual environment alone, in $(VENV)/"
	@echo "make clean    remove $(VENV)/, $(OLDEST_VENV)/, results/, data/demo/ and caches; weights/ and logs/ stay"
	@echo "With a GPU:   make demo REQUIREMENTS=requirements-gpu.txt CUDA=True"

# --- environment --------------------------------------------------------------------------------------------

# Some distributions leave the venv module out of python3; virtualenv does as well.
%/made:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 9))' || { \
	  echo 'Python 3.9 or newer is needed: name one with `make PYTHON=python3.11 ...`.' >&2; exit 1; }
	@rm -rf $*
	@"$(PYTHON)" -m venv $* || { rm -rf $*; "$(PYTHON)" -m virtualenv $*; } || { rm -rf $*; \
	  echo 'No virtual environment could be made. Install the package python3-venv (Debian, Ubuntu), or' \
	       'virtualenv with `pip install --user virtualenv`, or name another interpreter with' \
	       '`make PYTHON=...`.' >&2; exit 1; }
	@touch $@

$(RUNTIME_STAMP): $(REQUIREMENTS) | $(VENV_STAMP)
	$(PIP_INSTALL) -r $(REQUIREMENTS)
	@touch $@

$(DEV_STAMP): requirements-dev.txt requirements-fast.txt | $(VENV_STAMP)
	$(PIP_INSTALL) -r requirements-dev.txt
	@touch $@

$(OLDEST_STAMP): requirements-2.6.2.txt requirements.txt | $(OLDEST_VENV)/made
	$(OLDEST_VENV)/bin/python -m pip install --disable-pip-version-check --prefer-binary -r requirements-2.6.2.txt
	@touch $@

venv: $(RUNTIME_STAMP)

venv-oldest: $(OLDEST_STAMP)

venv-dev: $(RUNTIME_STAMP) $(DEV_STAMP)

# --- demo ---------------------------------------------------------------------------------------------------

demo: demo-train demo-shipped
	@echo "Done: $(DEMO)/ holds metrics.json, predictions.png and losses.png of the network just trained,"
	@echo "$(DEMO)/shipped/ the same of weights/yolact_demo.safetensors, trained by the same command for longer."

demo-data: venv
	$(PY) tools/make_demo_data.py --out data/demo

# The weights and the log of an earlier demo go first: `latest` must be the network of this run.
demo-train: demo-data
	@rm -rf $(DEMO)
	$(PY) train.py --config=yolact_demo_config --cuda=$(CUDA) --num_workers=1 --validation_epoch=-1 \
	  --save_folder=$(DEMO)/weights/ --log_folder=$(DEMO)/logs/
	$(PY) eval.py --config=yolact_demo_config --cuda=$(CUDA) --output_coco_json --comparison \
	  --trained_model=latest --save_folder=$(DEMO)/weights/ --output_folder=$(DEMO)
	$(PY) tools/plot_log.py $(DEMO)/logs/yolact_demo.log --out $(DEMO)/losses.png

demo-shipped: demo-train
	$(PY) eval.py --trained_model=weights/yolact_demo.safetensors --cuda=$(CUDA) --output_coco_json --comparison \
	  --output_folder=$(DEMO)/shipped

# --- checks -------------------------------------------------------------------------------------------------

test: venv-dev
	$(PY) -m pytest

# Each of the two suites keeps about one core busy, so they run at the same time.
test-all: venv-dev venv-oldest
	$(MAKE) fuzz
	@status=0; $(MAKE) --keep-going --jobs=2 test-newest test-oldest || status=1; $(MAKE) lint || status=1; exit $$status

test-newest: venv-dev
	$(PY) -m coverage erase
	$(PY) -m coverage run -m pytest -m ''
	$(PY) -m coverage combine --quiet
	$(PY) -m coverage report --skip-covered --fail-under=90

# Other cases each time, so what it finds may be older than the change: it is told, and does not fail the run.
fuzz: venv-dev
	-YOLACT_FUZZ=random $(PY) -m pytest tests/test_fuzz_*.py

test-oldest: venv-oldest
	@mkdir -p results
	$(OLDEST_VENV)/bin/python -m pytest > results/test-oldest.log 2>&1; status=$$?; cat results/test-oldest.log; \
	  exit $$status

alignment: venv-dev
	$(PY) tests/alignment.py --out results/alignment.md

lint: venv-dev
	$(PY) -m ruff check .
	$(PY) -m mypy

clean:
	rm -rf $(VENV) $(OLDEST_VENV) results data/demo data/pond .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
