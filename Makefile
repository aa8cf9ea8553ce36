# Two commands set everything up on a fresh machine: `make bot` (an agent speaks) and `make test`.
PYTHON ?= python3
VENV ?= .venv
VLLM_ENV ?= $(CURDIR)/.cache/vllm-env

.PHONY: bot say test lint vllm-test

bot: $(VENV)/.bot            ## an agent on http://localhost:7860 that you can hear, talk to and interrupt
	$(VENV)/bin/python agent_examples/bot.py

say: $(VENV)/.bot            ## the same agent without a browser: writes hello.wav
	$(VENV)/bin/python agent_examples/bot.py --say "Hello! I am speaking from your own machine." --out hello.wav

test: $(VENV)/.test          ## the whole test suite, lint and types; vLLM's part in an environment of its own
	PYTHON=$(VENV)/bin/python VLLM_ENV=$(VLLM_ENV) sh .ci/checks

vllm-test:                   ## only the tests that need vLLM
	VLLM_ENV=$(VLLM_ENV) sh .ci/vllm_checks

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.bot: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -q -e '.[examples]'
	touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install -q -e '.[test]'
	touch $@
