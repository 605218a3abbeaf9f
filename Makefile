# Every target sets up what it needs and is instant the second time.
#   make run ARGS="--no-audio --port 9000"    start the agent (no torch is installed)
#   make test                                 the test suite        make check   format, lint, types
#   make bench [ARGS=SUBCOMMAND]              speed and memory      make tiny    train, export and talk, tiny size
# PYTHON=python3.12 picks the interpreter; PIP_TORCH_ARGS= (empty) takes torch from the default index (CUDA builds).
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := run

VENV := .venv
TINY := runs/tiny
PY := $(VENV)/bin/python
ARGS ?=
TORCH ?= torch==2.13.0
PIP_TORCH_ARGS ?= --extra-index-url https://download.pytorch.org/whl/cpu --retries 1
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && echo $$p && break; done)

APT_RUN := libportaudio2
APT_TRAIN := espeak-ng flite festival festvox-us-slt-hts mosquitto openssl
APT_BROWSER := chromium
APT_GET := DEBIAN_FRONTEND=noninteractive apt-get

# $(call debian,PACKAGES,STOP): installs what is missing when root; otherwise says how, and stops if STOP is 1.
define debian
	missing=""; for p in $(1); do \
		dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
	if [ -n "$$missing" ] && ! command -v apt-get >/dev/null; then \
		echo "Please install the equivalents of these Debian packages:$$missing"; \
	elif [ -n "$$missing" ] && [ "$$(id -u)" = 0 ]; then \
		($(APT_GET) install -y --no-install-recommends $$missing || \
		($(APT_GET) update && $(APT_GET) install -y --no-install-recommends $$missing)) || [ "$(2)" = 0 ]; \
	elif [ -n "$$missing" ]; then \
		echo "Debian packages are missing. Please run:  sudo apt-get install -y --no-install-recommends$$missing"; \
		[ "$(2)" = 0 ] || exit 1; \
	fi
endef

.PHONY: run test check bench tiny setup setup-train format clean

run: setup
	@$(PY) run_agent.py $(ARGS)

test: setup-train
	@$(PY) -m pytest $(ARGS)

check: setup-train
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m mypy

format: setup-train
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

bench: setup
	@$(PY) -m agent.bench $(ARGS) $(if $(findstring --json,$(ARGS)),,--json bench.json)

# The whole road at toy size: data, codec, codes, S2S model, export, one spoken question answered. Noise, in two minutes.
tiny: setup-train
	@rm -rf $(TINY)
	$(PY) -m training.generate_conversations --domain coffee --num_pairs 24 --max_turns 2 --output_dir $(TINY)/conversations
	$(PY) -m training.train_codec --config configs/tiny.yaml --data_dir $(TINY)/conversations --steps 20 --minutes 2 --output $(TINY)/codec
	$(PY) -m training.encode_dataset --domain configs/domains/coffee.yaml --data_dir $(TINY)/conversations --codec $(TINY)/codec --output $(TINY)/codes
	$(PY) -m training.train_s2s --config configs/tiny.yaml --domain configs/domains/coffee.yaml --data_dir $(TINY)/codes --codec $(TINY)/codec --steps 20 --minutes 2 --output $(TINY)/s2s
	$(PY) -m training.train_talker --s2s $(TINY)/s2s --data_dir $(TINY)/codes --codec $(TINY)/codec --steps 20 --minutes 2 --output $(TINY)/speaking
	$(PY) -m training.export --codec $(TINY)/codec --s2s $(TINY)/speaking --domain configs/domains/coffee.yaml --output $(TINY)/models
	$(PY) run_agent.py --codec $(TINY)/models/codec --s2s $(TINY)/models/s2s --input $(TINY)/conversations/conv_000001/user.wav --output $(TINY)/answer.wav
	@echo "$(TINY)/answer.wav holds the answer of $(TINY)/models"

setup: $(VENV)/.run-stamp

setup-train: $(VENV)/.train-stamp

$(VENV)/.venv-stamp:
	@if [ -z "$(PYTHON)" ]; then echo "Python 3.11 or 3.12 is needed. Please run:  sudo apt-get install -y python3 python3-venv"; exit 1; fi
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
		v=python$$($(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv; $(call debian,$$v,1); fi
	@[ -x $(PY) ] || $(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.run-stamp: pyproject.toml | $(VENV)/.venv-stamp
	@$(call debian,$(APT_RUN),0)
	@$(PY) -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.train-stamp: pyproject.toml $(VENV)/.run-stamp
	@$(call debian,$(APT_TRAIN),1)
	@$(call debian,$(APT_BROWSER),0)
	@$(PY) -m pip install --quiet --disable-pip-version-check $(PIP_TORCH_ARGS) "$(TORCH)"
	@$(PY) -m pip install --quiet --disable-pip-version-check -e '.[train,dev]'
	@touch $@

clean:
	@rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache
