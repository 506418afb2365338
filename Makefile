# Every target works from a fresh clone: the virtual environment is made on first use.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: run test test-clients test-storm test-vsock check bench fuzz-eif \
  machine-tools boot-test clean setup help

help:           ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

run: $(READY)   ## the main job in a simulated enclave: prints 32 attested random bytes
	@$(BIN)/enclave-simulator run -- $(BIN)/enclave-agent generate-random --number-of-bytes 32 --verbose

test: $(READY)  ## all tests but the long ones
	$(BIN)/pytest -n auto

test-clients: $(READY) ## the local endpoint with the AWS SDK for JavaScript (needs npm; 18 MB)
	@command -v npm >/dev/null || { echo "make: error: no npm"; \
	  echo "make: hint: on Debian, apt-get install npm"; exit 1; }
	@mkdir -p .clients
	@npm install --no-audit --no-fund --silent --prefix .clients @aws-sdk/client-kms@3.1164.0
	$(BIN)/pytest -n 2 tests/chain/test_serve.py

test-storm: $(READY) ## the proxy killed and started again in the middle of 10,000 calls
	$(BIN)/python -m tests.chain.storm

test-vsock: $(READY) ## the proxy's tests over true AF_VSOCK, in user-mode Linux (under a minute)
	$(BIN)/python -m tests.guest

check: $(READY) ## ruff and mypy strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY) ## speed of the agent, the endpoint and the relay; BENCH=relay for one, ROUNDS=10
	$(BIN)/python -m tests.bench $(BENCH)

fuzz-eif: $(READY) ## a million mutated enclave images against the reader (minutes)
	$(BIN)/python -m tests.parent.fuzz_eif $(or $(COUNT),1000000) $(SEED)

machine-tools: $(READY) ## a QEMU for enclave-simulator boot, unpacked from Debian's packages
	$(BIN)/enclave-simulator setup-machine $(if $(CACHE),--cache $(CACHE))

boot-test: $(READY) ## build an enclave image, boot it under QEMU, run the main job inside
	$(BIN)/python -m tests.boot $(if $(CACHE),--cache $(CACHE))

setup: $(READY) ## only the virtual environment

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: error: $(PYTHON) is older than Python 3.11"; \
	    echo "make: hint: name a newer one, e.g. make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "make: error: $(PYTHON) cannot make a virtual environment"; \
	    echo "make: hint: on Debian, apt-get install python3-venv"; exit 1; }
	@echo "setting up $(VENV) (once; about half a minute)" >&2
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

clean:          ## remove everything that was made
	rm -rf $(VENV) .clients build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
