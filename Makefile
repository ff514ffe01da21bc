# The face of tribody.  Every target does its own set-up on a fresh machine and is quick when there
# is nothing to do; nothing asks a question.
#
# One wheel is built (build/wheel) and installed into each environment that needs tribody; it is
# rebuilt only when the content of a source file changed (build/sources.id), not when a checkout
# merely touched it.  pip's own configuration says where packages come from.
#
# Variables: PYTHON (an interpreter, 3.11 or newer), MODEL, PORT, PYTEST_ARGS, BENCH_ARGS,
# SERVE_ARGS, BENCH_OUT (the folder of a run), TRAIN_ARGS.

MODEL ?= mini-r1
PORT ?= 8000
PYTHON ?=
PYTEST_ARGS ?=
BENCH_ARGS ?=
SERVE_ARGS ?=
TRAIN_ARGS ?=

NODE_MODULES = examples/node_modules
OPENAI_TESTS = build/clients/openai-python

export PIP_DISABLE_PIP_VERSION_CHECK = 1
export PIP_NO_INPUT = 1
unexport PYTHONPATH

.DEFAULT_GOAL := help
comma := ,
.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: FORCE help install serve test clients parity goldens check format bench slow mutation \
    mini-r1 clean
.PHONY: native-table native-check native-arm

help: ## show this list
	@echo "make TARGET [MODEL=mini-r1] [PORT=8000] [PYTHON=/path/to/python3]"
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# --- What to run --------------------------------------------------------------------------------

install: .venv/.tribody ## build tribody and install it into .venv

serve: install ## serve MODEL on PORT (loopback); mini-r1 ships with it, other names are fetched
	@exec .venv/bin/tribody serve $(MODEL) --port $(PORT)

test: .venv-test/.tribody weights ## fast tests, and those that need the SmolLM2 weights
	.venv-test/bin/python -m pytest -m "not slow and not parity" $(PYTEST_ARGS)

slow: .venv-test/.tribody weights ## the long tests: restarts, disconnects, random schedules; native-check
	.venv-test/bin/python -m pytest -m slow $(PYTEST_ARGS)
	@$(MAKE) --no-print-directory native-check

mutation: .venv-mutation/.tribody ## change ledger, tariffs and tenancy in thousands of ways; tests notice
	.venv-mutation/bin/python scripts/mutation.py

clients: .venv-clients/.tribody .venv-litellm/.deps $(NODE_MODULES)/.deps $(OPENAI_TESTS)/.deps ## other people's clients and suites; examples/
	.venv-clients/bin/python -m pytest tests/clients $(PYTEST_ARGS)

parity: .venv-parity/.tribody ## logits against transformers, in an environment with torch
	@.venv-parity/bin/tribody pull smollm2 >/dev/null || $(NO_WEIGHTS)
	.venv-parity/bin/python -m pytest -m parity --timeout 900 $(PYTEST_ARGS)

CHECKS = lint format types imports stub calls docs core

goldens: .venv-parity/.tribody ## write tests/golden anew by transformers (minutes; then look at git diff)
	.venv-parity/bin/python -m tests.parity.write_goldens \
	    "$$(.venv-parity/bin/tribody pull smollm2)"

check: $(CHECKS:%=check-%) ## lint, format, types, import contracts, stub, calls, docs, core size

.PHONY: $(CHECKS:%=check-%)
$(filter-out check-core,$(CHECKS:%=check-%)): .venv-check/.tribody

check-lint:
	.venv-check/bin/ruff check .

check-format:
	.venv-check/bin/ruff format --check .

check-types:
	.venv-check/bin/mypy

check-imports:
	PYTHONPATH=src .venv-check/bin/lint-imports --no-cache

check-stub:
	.venv-check/bin/python scripts/check_stub.py

check-calls:
	.venv-check/bin/python scripts/check_calls.py

check-docs:
	.venv-check/bin/python scripts/check_docs.py

check-core: .venv/.tribody
	.venv/bin/python scripts/check_core_env.py

format: .venv-check/.tribody ## let ruff rewrite what it can
	.venv-check/bin/ruff check --fix .
	.venv-check/bin/ruff format .

# Both write into the same folder, so there is one report.  transformers is measured as well where
# `make parity` has made its environment.
bench: BENCH_OUT := $(or $(BENCH_OUT),bench/results/$(shell date -u +%Y-%m-%dT%H%M%SZ))
bench: .venv-bench/.tribody ## speed beside llama.cpp and transformers, same machine, same run
	@.venv-bench/bin/tribody pull smollm2 >/dev/null || $(NO_WEIGHTS)
	.venv-bench/bin/python bench/engine.py --out $(BENCH_OUT) $(BENCH_ARGS)
	.venv-bench/bin/python bench/serve.py --resume --out $(BENCH_OUT) $(SERVE_ARGS)

# --- Kernels without Python (docs/native.md) ----------------------------------------------------

NATIVE = build/native
EXPORT = .venv-test/bin/python -m tests.native.export

# Uninitialised memory is NaN, so that whatever depends on it shows; leaks need ptrace, which
# containers forbid.
SANITIZER_OPTIONS = ASAN_OPTIONS=detect_leaks=0:malloc_fill_byte=255:max_malloc_fill_size=1000000000 \
    UBSAN_OPTIONS=print_stacktrace=1

# build_native, FOLDER, TARGETS, CMAKE OPTIONS: what is compiled in build/native/FOLDER.
define build_native
@mkdir -p $(NATIVE)
@PATH="$(CURDIR)/.venv-build/bin:$$PATH" && cmake -G Ninja -S . -B $(NATIVE)/$(1) $(3) \
    >$(NATIVE)/$(1).log || { cat $(NATIVE)/$(1).log >&2; exit 1; } && \
    cmake --build $(NATIVE)/$(1) --target $(2)
endef
RUN = $(OBJECTS)/tests/native/runner
RUN_SANITIZED = $(SANITIZER_OPTIONS) $(NATIVE)/memory/tests/native/runner
RUN_THREADS = $(NATIVE)/threads/tests/native/runner
RUN_ARM = $(NATIVE)/arm/tests/native/runner

# The package with the module that AddressSanitizer watches, which has to be in the interpreter first.
SITE = $(NATIVE)/memory/site
PYTHON_SANITIZED = LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so)" \
    PYTHONPATH=$(SITE) $(SANITIZER_OPTIONS) .venv-test/bin/python

# With the very kernels of the wheel, which are compiled already.
native-table: $(NATIVE)/table.bin $(NATIVE)/wrong.bin ## the kernels' cases and 300 random shapes, without Python
	@.venv-build/bin/cmake --build $(OBJECTS) --target runner
	$(RUN) $(NATIVE)/wrong.bin --expect-failures
	$(RUN) $(NATIVE)/table.bin --threads 2 --write-bits $(NATIVE)/table.bits

native-check: native-table native-arm $(NATIVE)/random.bin ## the same with 10,000, under sanitizers, and for arm64
	$(call build_native,memory,runner _native,-DPython_EXECUTABLE=$(CURDIR)/.venv-build/bin/python \
	    -DTRIBODY_SANITIZE=address$(comma)undefined$(comma)float-cast-overflow)
	$(call build_native,threads,runner,-DTRIBODY_RUNNER=ON -DTRIBODY_SANITIZE=thread)
	$(RUN) $(NATIVE)/random.bin --write-bits $(NATIVE)/random.bits
	$(RUN_SANITIZED) $(NATIVE)/table.bin --threads 3 --same-bits $(NATIVE)/table.bits
	$(RUN_SANITIZED) $(NATIVE)/random.bin --same-bits $(NATIVE)/random.bits
	@rm -rf $(SITE) && mkdir $(SITE) && cp -R src/tribody $(SITE) && \
	    cp $(NATIVE)/memory/_native*.so $(SITE)/tribody
	$(PYTHON_SANITIZED) -m pytest tests/ops/test_layers.py tests/ops/test_threads.py
	$(RUN_THREADS) $(NATIVE)/table.bin --threads 4 --same-bits $(NATIVE)/table.bits

# A Cortex-A57 has no dot products, and the runner must find that out: what runs there runs on any
# Armv8.
native-arm: native-table arm-tools ## the cases for arm64, under qemu: the bits of this machine
	$(call build_native,arm,runner,-DTRIBODY_RUNNER=ON -DCMAKE_TOOLCHAIN_FILE=tests/native/aarch64.cmake)
	qemu-aarch64 -cpu cortex-a57 $(RUN_ARM) $(NATIVE)/table.bin --same-bits $(NATIVE)/table.bits
	! qemu-aarch64 -cpu cortex-a57 $(RUN_ARM) $(NATIVE)/table.bin --levels neondot
	qemu-aarch64 -cpu max $(RUN_ARM) $(NATIVE)/table.bin --levels neondot --threads 2 \
	    --same-bits $(NATIVE)/table.bits

.PHONY: arm-tools
arm-tools:
	@missing=; \
	command -v aarch64-linux-gnu-g++ >/dev/null || missing="g++-aarch64-linux-gnu"; \
	command -v qemu-aarch64 >/dev/null || missing="$$missing qemu-user"; \
	[ -z "$$missing" ] || { echo "missing for arm64:  sudo apt-get install" $$missing >&2; exit 1; }

CASE_SOURCES = .venv-test/.tribody $(wildcard tests/native/*.py tests/ops/*.py)

$(NATIVE)/table.bin: $(CASE_SOURCES)
	$(EXPORT) $@ --random 300

$(NATIVE)/wrong.bin: $(CASE_SOURCES)
	$(EXPORT) $@ --wrong

$(NATIVE)/random.bin: $(CASE_SOURCES)
	$(EXPORT) $@ --random 10000 --no-table

# --- Training -----------------------------------------------------------------------------------

mini-r1: .venv-parity/.tribody ## train mini-r1 (hours; goes on where it was stopped) and evaluate it
	.venv-parity/bin/python -m recipes.mini_r1.train --out runs/mini-r1 $(TRAIN_ARGS)
	.venv-parity/bin/python -m recipes.mini_r1.drafts --run runs/mini-r1 --out runs/mini-r1-drafts
	.venv-parity/bin/python -m recipes.mini_r1.evaluate --run runs/mini-r1-drafts \
	    --out runs/mini-r1-drafts/bundled

clean: ## remove what make built (not the downloaded models)
	rm -rf build dist .venv .venv-build .venv-test .venv-check .venv-parity .venv-bench \
	    .venv-mutation mutants .venv-clients .venv-litellm $(NODE_MODULES) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests bench scripts -name __pycache__ -type d -prune -exec rm -rf {} +

# --- The weights that tests use -----------------------------------------------------------------

NO_WEIGHTS = { echo "The SmolLM2 weights (98 MB) are neither in the cache nor within reach." \
    "Connect once, or put the file there: tribody pull smollm2" >&2; exit 1; }

.PHONY: weights
weights: .venv-test/.tribody
	@.venv-test/bin/tribody pull smollm2 >/dev/null || $(NO_WEIGHTS)

# --- Environments -------------------------------------------------------------------------------

# make_env, DIRECTORY: a virtual environment, kept when it is there, runs and has its pip (an
# interrupted one does not).
define make_env
@if ! $(1)/bin/python -c 'import pip' 2>/dev/null; then \
    python=$$(sh scripts/preflight.sh $(PYTHON)) || exit 1; \
    echo "making $(1) with $$python"; rm -rf $(1); "$$python" -m venv $(1); fi
endef

# install_wheel, DIRECTORY: the wheel itself again (same version, new content), then what it needs.
define install_wheel
$(1)/bin/python -m pip install -q --no-deps --force-reinstall build/wheel/tribody-*.whl
$(1)/bin/python -m pip install -q build/wheel/tribody-*.whl
@touch $@
endef

.venv-build/.deps: requirements/build.txt
	$(call make_env,.venv-build)
	.venv-build/bin/python -m pip install -q -r requirements/build.txt
	@touch $@

.venv-test/.deps: requirements/test.txt
	$(call make_env,.venv-test)
	.venv-test/bin/python -m pip install -q -r requirements/test.txt
	@touch $@

.venv-check/.deps: requirements/check.txt requirements/test.txt
	$(call make_env,.venv-check)
	.venv-check/bin/python -m pip install -q -r requirements/check.txt
	@touch $@

# mutmut puts its changed copy of the sources where the tests find it; what that needs is a wheel's
# dependencies, so tribody is installed here as well.
.venv-mutation/.deps: requirements/mutation.txt requirements/test.txt
	$(call make_env,.venv-mutation)
	.venv-mutation/bin/python -m pip install -q -r requirements/mutation.txt
	@touch $@

.venv-parity/.deps: requirements/parity.txt requirements/torch.txt requirements/test.txt
	$(call make_env,.venv-parity)
	.venv-parity/bin/python -m pip install -q -r requirements/torch.txt
	.venv-parity/bin/python -m pip install -q -r requirements/parity.txt
	@touch $@

.venv-clients/.deps: requirements/clients.txt
	$(call make_env,.venv-clients)
	.venv-clients/bin/python -m pip install -q -r requirements/clients.txt
	@touch $@

.venv-litellm/.deps: requirements/litellm.txt
	$(call make_env,.venv-litellm)
	.venv-litellm/bin/python -m pip install -q -r requirements/litellm.txt
	@touch $@

$(NODE_MODULES)/.deps: examples/package.json
	@command -v npm >/dev/null || { echo "npm is missing; Node 20 has it" >&2; exit 1; }
	npm install --prefix examples --no-package-lock --no-audit --no-fund --loglevel error
	@touch $@

# The tests are in the source distribution only; its metadata are written by the hatchling of
# .venv-clients.
$(OPENAI_TESTS)/.deps: .venv-clients/.deps
	@rm -rf $(OPENAI_TESTS) && mkdir -p $(OPENAI_TESTS)
	.venv-clients/bin/python -m pip download -q --no-deps --no-binary :all: --no-build-isolation \
	    -d $(OPENAI_TESTS) "$$(grep '^openai\[' requirements/clients.txt)"
	@tar -xzf $(OPENAI_TESTS)/openai-*.tar.gz --strip-components 1 -C $(OPENAI_TESTS)
	@touch $@

# Built from source for this very machine, as its users are told to build it.  Once; it takes minutes.
# The header mends what GCC before 14 does to llama.cpp on machines with AMX.  Without the cache
# switch pip would take a wheel that was built with other flags.
.venv-bench/.deps: requirements/bench.txt bench/peers/amx_gcc12.h
	$(call make_env,.venv-bench)
	CXXFLAGS="-include $(CURDIR)/bench/peers/amx_gcc12.h" CMAKE_ARGS=-DGGML_NATIVE=ON \
	    .venv-bench/bin/python -m pip install --no-cache-dir \
	    --no-binary llama-cpp-python -r requirements/bench.txt
	@touch $@

.venv/.tribody: build/wheel/.stamp
	$(call make_env,.venv)
	$(call install_wheel,.venv)

.venv-%/.tribody: .venv-%/.deps build/wheel/.stamp
	$(call install_wheel,.venv-$*)

.PRECIOUS: .venv-%/.tribody

# --- The wheel ----------------------------------------------------------------------------------

# Where the wheel's own build keeps what it compiled.
OBJECTS = build/objects

SOURCE_FILES = find pyproject.toml CMakeLists.txt README.md LICENSE native src -type f \
    ! -name '*.pyc' ! -name '*.so' ! -path 'native/dev-build*'

build/sources.id: FORCE
	@mkdir -p build
	@$(SOURCE_FILES) | LC_ALL=C sort | xargs cksum > $@.new
	@if cmp -s $@.new $@; then rm $@.new; else mv $@.new $@; fi

build/wheel/.stamp: build/sources.id .venv-build/.deps
	@rm -rf build/wheel && mkdir -p build/wheel
	.venv-build/bin/python -m pip wheel -q --no-deps --no-build-isolation \
	    --config-settings=build-dir=$(OBJECTS) -w build/wheel .
	@touch $@
