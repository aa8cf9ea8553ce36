# Two commands set everything up on a fresh machine: `make bot` (an agent speaks) and `make test`.
PYTHON ?= python3
VENV ?= .venv
VLLM_ENV ?= $(CURDIR)/.cache/vllm-env
DOCS_ENV ?= .cache/docs-env

.PHONY: bot say unit test vllm-test environment docs

# make bot MODEL=orpheus-3b fetches that model first. Where there is an NVIDIA GPU, vLLM is installed too.
FETCH = $(if $(MODEL),$(VENV)/bin/orpheus-tts download $(MODEL))
BOT = $(VENV)/bin/python agent_examples/bot.py $(if $(MODEL),--model $(MODEL))

bot:           ## an agent on http://localhost:7860 that you can hear, talk to and interrupt
	@$(PYTHON) .ci/install.py $(VENV) examples
	@$(FETCH)
	$(BOT)

say:           ## the same agent without a browser: writes hello.wav
	@$(PYTHON) .ci/install.py $(VENV) examples
	@$(FETCH)
	$(BOT) --say "Hello! I am speaking from your own machine." --out hello.wav

environment:   ## what the tests and the tools need, in $(VENV)
	@$(PYTHON) .ci/install.py $(VENV) test

UNIT = tests/text tests/models tests/test_turn.py tests/test_errors.py tests/test_folders.py tests/test_protocol.py \
	tests/test_reply.py tests/test_imports.py tests/engine/test_playout.py tests/engine/test_prebuffer.py \
	tests/engine/test_runaway.py tests/engine/test_trim.py tests/engine/test_admission.py \
	tests/tokens/test_vocabulary.py tests/codec/test_noise.py \
	tests/remote/test_progress.py tests/remote/test_registry.py tests/remote/test_resolve.py

unit: environment  ## lint, types and the tests that need no model and no server: a minute
	@# Types take as long as the tests: they are checked at the same time.
	@PYTHON=$(VENV)/bin/python sh .ci/lint & lint=$$!; \
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile $(UNIT); tests=$$?; \
	wait $$lint || { echo "lint or types failed: see above, or \`sh .ci/lint\`"; exit 1; }; exit $$tests

test: environment  ## the whole test suite, lint and types; vLLM's part in an environment of its own
	PYTHON=$(VENV)/bin/python VLLM_ENV=$(VLLM_ENV) sh .ci/checks

vllm-test:     ## only the tests that need vLLM
	PYTHON=$(PYTHON) VLLM_ENV=$(VLLM_ENV) sh .ci/vllm_checks

docs:          ## the documentation site, into site/
	@$(PYTHON) .ci/install.py $(DOCS_ENV) docs
	$(DOCS_ENV)/bin/zensical build --strict
