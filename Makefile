# Every target works from a fresh clone: the virtual environment is made on first use.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
# One environment, filled in two steps: what `make run` needs, and the rest. Where the rest is
# there, so is the first.
RUNS   := $(if $(wildcard $(READY)),$(READY),$(VENV)/.runs)
SET_UP := tests/programs/set_up.py

# Two targets must not fill it at the same time.
.NOTPARALLEL:

.PHONY: run test check attack bench soak fuzz fuzz-keep mutants api docs wheel setup lock clean help \
  test-again test-long test-aws-cli test-clean test-clients test-foreign test-image test-page test-storm test-types test-vsock \
  boot-test fuzz-eif image image-bill eif machine-tools

help:           ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s  %s\n", $$1, $$2}' Makefile

run: $(RUNS)    ## the main job in a simulated enclave: 32 random bytes
	@$(BIN)/enclave-simulator run -- $(BIN)/enclave-agent generate-random --number-of-bytes 32 --verbose

test: $(READY)  ## all tests but the long ones
	$(BIN)/pytest -n auto

test-long: $(READY) ## the tests that take long; each property 500 times
	HYPOTHESIS_PROFILE=thorough $(BIN)/pytest -n auto -m "long or hypothesis"

test-again: $(READY) ## the tests that failed last, one after another
	$(BIN)/pytest --last-failed --last-failed-no-failures none -p no:randomly

test-clients: $(READY) ## the endpoint with AWS's CLIs, SDKs, encryption libraries
	$(BIN)/python -m tests.programs.clients
	$(BIN)/pytest -n 2 -rs -m "" tests/chain/test_clients.py \
	  tests/chain/test_program_credentials.py tests/chain/test_sops.py

test-page: $(READY) ## the parent's page in Chromium (chromium-driver)
	$(BIN)/pytest tests/parent/operations/in_browser.py

test-foreign: $(READY) ## others' NSM clients and verifiers (PyPI, npm)
	$(BIN)/python -m tests.programs.foreign $(if $(CACHE),--cache $(CACHE))

test-storm: $(READY) ## the proxy killed and started again in 10,000 calls
	$(BIN)/python -m tests.programs.storm

PYRIGHT := pyright[nodejs]==1.1.414

test-types: $(READY) ## a user's file, as pyright sees it (250 MB from PyPI)
	@test -d .types || $(PYTHON) -m venv .types
	@.types/bin/pip install --quiet --disable-pip-version-check '$(PYRIGHT)'
	$(BIN)/pytest -rs tests/test_installed.py -k pyright

soak: $(READY) ## calls while parts fail; MINUTES=5 CLIENTS=16 SEED=
	$(BIN)/python -m tests.programs.soak --minutes $(or $(MINUTES),5) \
	  --clients $(or $(CLIENTS),16) $(if $(SEED),--seed $(SEED))

attack: $(READY) ## every attack on the agent and on vulnerable clients
	$(BIN)/python -m tests.programs.attack --jobs $(or $(JOBS),4) $(ATTACKS)

test-vsock: $(READY) ## the proxy's tests over true AF_VSOCK (4 minutes)
	$(BIN)/python -m tests.programs.guest

test-image: $(READY) ## the image built twice, and run (root, buildah, mmdebstrap)
	$(BIN)/pytest -s -p no:randomly tests/image/built_image.py

test-clean:     ## README's commands on a clean Debian (root, mmdebstrap)
	@$(PYTHON) tests/programs/clean.py $(SUITES)

api: $(READY)   ## docs/api.md, from the docstrings
	@$(BIN)/python -m tests.programs.api_page

test-aws-cli: $(READY) ## enclave-agent beside AWS CLI 2: output, exit codes
	$(BIN)/python -m tests.programs.aws_cli

check: $(READY) ## ruff and mypy strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY) ## speed of agent, endpoint and relay; BENCH=relay for one
	$(if $(SVG),SVG='$(SVG)' )$(BIN)/python -m tests.programs.bench $(BENCH)

mutants: $(READY) ## is the security core held by tests? MODULE=cms for one
	@$(BIN)/pip install --quiet --disable-pip-version-check --upgrade \
	  --target .mutants/site mutmut==3.8.1
	$(BIN)/python -m tests.programs.mutants $(MODULE)

# Coverage-guided fuzzing; in no extra, for it has wheels for few platforms. The pin is by Python.
ATHERIS := 'atheris==3.0.0; python_version < "3.12"' 'atheris==3.1.0; python_version >= "3.12"'

fuzz: $(READY)  ## hostile bytes, by coverage; TARGET= SECONDS=60 SEED=
	@$(BIN)/pip install --quiet --disable-pip-version-check --only-binary :all: --upgrade \
	  --target .fuzz/site $(ATHERIS) || echo "make: no wheel of atheris for this Python" >&2
	PYTHONPATH=.fuzz/site $(BIN)/python -m tests.programs.fuzz $(TARGET) \
	  --seconds $(or $(SECONDS),60) $(if $(SEED),--seed $(SEED))

fuzz-keep: $(READY) ## keep what make fuzz reached beyond the seeds; TARGET=
	$(BIN)/python -m tests.programs.fuzz --keep $(TARGET)

fuzz-eif: $(READY) ## a million mutated enclave images, read (minutes)
	$(BIN)/python -m tests.programs.fuzz_eif $(or $(COUNT),1000000) $(SEED)

machine-tools: $(READY) ## a QEMU for enclave-simulator boot, from Debian
	$(BIN)/enclave-simulator setup-machine $(if $(CACHE),--cache $(CACHE)) $(if $(ARCH),--arch $(ARCH))

boot-test: $(READY) ## an enclave image, booted under QEMU; ARCH=aarch64 too
	$(BIN)/python -m tests.programs.boot $(if $(CACHE),--cache $(CACHE)) $(if $(ARCH),--arch $(ARCH))

DOCS_TOOLS := sphinx==9.0.4 myst-parser==5.2.0

docs: api       ## HTML of README and docs/ in dist/docs, every link checked
	@test -d .docs || $(PYTHON) -m venv .docs
	@.docs/bin/pip install --quiet --disable-pip-version-check $(DOCS_TOOLS)
	@.docs/bin/sphinx-build --quiet --fail-on-warning --keep-going --builder html \
	  --conf-dir docs --doctree-dir .docs/doctrees . dist/docs
	@echo dist/docs/README.html

# docs/image.md tells what these may be.
IMAGE   ?= nitro-enclave-agent
EIF     ?= $(notdir $(IMAGE)).eif
BUILDER ?= $(shell if docker info >/dev/null 2>&1; then echo docker; \
             elif command -v buildah >/dev/null; then echo buildah; else echo none; fi)
NO_BUILDER := { echo "make: error: neither a Docker daemon nor buildah"; \
                echo "make: hint: start Docker, or on Debian, apt-get install buildah"; exit 1; } >&2
SOURCE_DATE_EPOCH ?= 315532800
IMAGE_ARGUMENTS = $(foreach name,BASE_IMAGE BUILD_IMAGE SDK_IMAGE BOTOCORE_SERVICES PIP_INDEX_URL \
  SOURCE_DATE_EPOCH,$(if $($(name)),--build-arg '$(name)=$($(name))'))

image:          ## the enclave image, with docker or buildah
	@case '$(BUILDER)' in \
	docker) set -x; docker build --file Dockerfile.enclave $(IMAGE_ARGUMENTS) --tag '$(IMAGE)' .;; \
	buildah) set -x; buildah build --timestamp $(SOURCE_DATE_EPOCH) --file Dockerfile.enclave \
	  $(IMAGE_ARGUMENTS) --tag '$(IMAGE)' .;; \
	*) $(NO_BUILDER);; \
	esac

image-bill: $(READY) ## what is in the image, as CycloneDX: dist/NAME.cdx.json
	@mkdir -p dist
	@archive=dist/$(notdir $(IMAGE)).tar; rm -f "$$archive"; case '$(BUILDER)' in \
	docker) docker save --output "$$archive" '$(IMAGE)';; \
	buildah) buildah push --quiet '$(IMAGE)' "docker-archive:$$archive";; \
	*) $(NO_BUILDER);; \
	esac || { echo "make: error: the image $(IMAGE) cannot be read"; \
	  echo "make: hint: make image builds it; another one is named by IMAGE="; exit 1; } >&2 \
	&& $(BIN)/python -m tests.programs.image_bill "$$archive" "$${archive%.tar}.cdx.json"; \
	code=$$?; rm -f "$$archive"; exit $$code

eif:            ## the image as an enclave image file, with nitro-cli
	@command -v nitro-cli >/dev/null && docker info >/dev/null 2>&1 || { \
	  echo "make: error: no nitro-cli with a Docker daemon"; \
	  echo "make: hint: enclave-parent build-eif needs neither: docs/image.md"; exit 1; } >&2
	$(MAKE) image BUILDER=docker
	nitro-cli build-enclave --docker-uri '$(IMAGE)' --output-file '$(EIF)'

UV      := uv==0.13.8
COMPILE := .lock/bin/uv pip compile --quiet --universal --python-version 3.11 --no-build \
             --generate-hashes --custom-compile-command 'make lock' $(LOCK)

wheel: $(READY) ## the wheel and its bill of materials (CycloneDX), in dist/
	@$(BIN)/python -m tests.programs.wheel dist

lock:           ## requirements/*.txt from pyproject.toml; LOCK=--upgrade
	@test -d .lock || $(PYTHON) -m venv .lock
	@.lock/bin/pip install --quiet --disable-pip-version-check $(UV)
	$(COMPILE) --output-file requirements/enclave.txt pyproject.toml
	$(PYTHON) -c 'import sys, tomllib; \
	  print(*tomllib.load(sys.stdin.buffer)["build-system"]["requires"], sep="\n")' <pyproject.toml | \
	  $(COMPILE) --output-file requirements/build.txt -

setup: $(READY) ## only the virtual environment

$(READY): pyproject.toml
	$(call set-up,dev)
	@touch $(VENV)/.runs

$(VENV)/.runs: pyproject.toml
	$(call set-up,run)

define set-up
	@command -v $(PYTHON) >/dev/null || { echo "make: error: no $(PYTHON)" >&2; \
	  echo "make: hint: on Debian, apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: error: $(PYTHON) is older than Python 3.11" >&2; \
	    echo "make: hint: name a newer one, e.g. make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) $(SET_UP) $(VENV) $(1)
	@touch $@
endef

clean:          ## remove everything that was made
	rm -rf $(VENV) .clients .docs .foreign .fuzz .image .lock .mutants .types build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
