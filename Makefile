# demo   read passages with the bundled NLA, then serve its page    test   the offline tests
# check  lint, types and guards                                   docs   render the README's tables
# train  make the bundled NLA again (hours on two CPU cores)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two test processes with one thread each: torch processes that share cores slow each other down.
# Files are taken in their order, the browser and end-to-end ones first: the long ones don't end last.
OFFLINE := HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1
INSTALL := $(BIN)/python -m pip install -q -c constraints.txt

.PHONY: demo test check guards docs train

demo: $(VENV)/.installed
	$(BIN)/nlakit demo
	$(BIN)/nlakit serve

test: $(VENV)/.installed-dev
	$(OFFLINE) $(BIN)/python -m pytest -q -m "not gpu and not live" -n 2 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.installed-dev guards
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# The bracketed letters keep these patterns from matching this file.
guards:
	@! git grep -nE '/wor[k]/|/roo[t]/|/far[m]/|/tm[p]/[a-z]' -- . ':!LICENSE' \
	  || { echo "guards: a path of one machine is committed"; exit 1; }
	@! git grep -nE 'trust_remote_code *= *Tru[e]' -- . \
	  || { echo "guards: trust_remote_code runs code from a checkpoint"; exit 1; }
	@! git ls-files -z | xargs -0 -r -I{} find {} -size +60M 2>/dev/null | grep . \
	  || { echo "guards: a file above 60 MB is committed"; exit 1; }

docs: $(VENV)/.installed
	@if [ -f docs/render.py ]; then $(BIN)/python docs/render.py; \
	else echo "docs: no docs/render.py, nothing to render"; fi

train: $(VENV)/.installed
	$(BIN)/nlakit train recipes/storyworld.toml

# Installed once for each change of the requirements; the stamps remember.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	$(INSTALL) -e '.[dev]'
	@touch $(VENV)/.installed $@

ifneq ($(wildcard benchmarks/__main__.py),)
.PHONY: bench
bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks
endif
