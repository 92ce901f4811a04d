# `make demo` and `make test` set up everything they need below this folder.
.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
STUBS_VENV := .venv-stubs
STUBS_INSTALLED := $(STUBS_VENV)/.installed
PIP := -m pip --disable-pip-version-check -qq
PYPROJECTS := pyproject.toml engine/pyproject.toml client/pyproject.toml
PROTO := protos/propfirm/challenge/v1/challenge.proto
PYTEST ?= $(BIN)/python -m pytest
# Most tests wait for processes and timers rather than compute. Each of the workers has a PostgreSQL of its own.
TEST_WORKERS ?= 3

.PHONY: help setup demo serve test test-brokers bench bench-growth bench-stream bench-proofs soak-stream soak-sdk promises lint types imports proto stubs stubs-check reference client-alone twins twins-check lock ci clean

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(INSTALLED) ## make the virtual environment from the lock file

$(INSTALLED): requirements/dev.lock $(PYPROJECTS)
	@echo "setting up $(VENV) from the lock file (about a minute)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python $(PIP) install --require-hashes -r requirements/dev.lock
	@$(BIN)/python $(PIP) install --no-deps --no-build-isolation -e ./engine -e ./client -e .
	@touch $@

demo: $(INSTALLED) ## run two real trading accounts through the service
	$(BIN)/challenge-engine demo

serve: $(INSTALLED) ## start the service on the embedded PostgreSQL; ARGS="--listen …" for options
	$(BIN)/challenge-engine serve $(ARGS)

test: $(INSTALLED) ## run every test but soaks and those of brokers (a real PostgreSQL is started for it)
	@# The tests start hundreds of processes: compile the project once, whatever the environment says.
	PYTHONDONTWRITEBYTECODE= $(PYTEST) tests --ignore=tests/brokers -m 'not soak' -n $(TEST_WORKERS) --dist worksteal

test-brokers: $(INSTALLED) ## the relay against real brokers, which .ci/install-brokers installs (two and a half minutes)
	$(PYTEST) tests/brokers

bench: $(INSTALLED) ## throughput and latency beside pgbench and an empty echo call (about three minutes); ARGS="--workers 2"
	$(BIN)/python -m bench run $(ARGS)

bench-growth: $(INSTALLED) ## the same rates with 1 and 10 million stored trades (about 5 GB of disk, seven minutes)
	$(BIN)/python -m bench growth $(ARGS)

bench-stream: $(INSTALLED) ## event streams: delivery, catching up, many subscribers and stalled ones (about three and a half minutes a round)
	$(BIN)/python -m bench stream $(ARGS)

bench-proofs: $(INSTALLED) ## what chains and seals cost, beside the last revision without them; replay, verify, proofs (about two minutes)
	$(BIN)/python -m bench proofs $(ARGS)

soak-stream: $(INSTALLED) ## 50 subscribers and 2,000 challenges while servers are killed and sessions ended (about a minute)
	CHAOS_CHALLENGES=2000 CHAOS_SUBSCRIBERS=50 CHAOS_KILL_EVERY_S=3 $(PYTEST) tests/server/test_stream_chaos.py -o timeout=600 -o faulthandler_timeout=700

soak-sdk: $(INSTALLED) ## 10,000 trades by each client while the line is cut every 200 ms and the server killed twice (under a minute)
	$(PYTEST) tests/client/test_submitting_live.py -m soak

promises: $(INSTALLED) ## break what event streams promise, one promise at a time, and see its test fail (a quarter of an hour)
	$(BIN)/python -m tests.promises

lint: $(INSTALLED) ## style, formatting, Dockerfile and compose file
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec deploy/compose.yaml

types: $(INSTALLED) ## mypy, strict
	$(BIN)/mypy

imports: $(INSTALLED) ## which room may import which
	$(BIN)/lint-imports

proto: $(INSTALLED) ## buf: lint, and no break against the released contract
	$(BIN)/buf lint
	$(BIN)/buf breaking --against protos/released.binpb

$(STUBS_INSTALLED): requirements/stubs.lock
	@$(PYTHON) -m venv --clear $(STUBS_VENV)
	@$(STUBS_VENV)/bin/python $(PIP) install --require-hashes -r requirements/stubs.lock
	@touch $@

stubs: $(STUBS_INSTALLED) ## generate the Python stubs from the contract
	$(STUBS_VENV)/bin/python -m grpc_tools.protoc -I protos --python_out=client --pyi_out=client --grpc_python_out=client $(PROTO)

stubs-check: $(STUBS_INSTALLED) ## fail when the committed stubs are not what the contract generates
	@rm -rf build/stubs && mkdir -p build/stubs
	$(STUBS_VENV)/bin/python -m grpc_tools.protoc -I protos --python_out=build/stubs --pyi_out=build/stubs --grpc_python_out=build/stubs $(PROTO)
	@for file in challenge_pb2.py challenge_pb2.pyi challenge_pb2_grpc.py; do \
		diff -u client/propfirm/challenge/v1/$$file build/stubs/propfirm/challenge/v1/$$file || exit 1; done
	@echo "generated stubs are current"

twins: $(INSTALLED) ## generate the client for threads from the one for asyncio
	$(BIN)/python client/twins.py

twins-check: $(INSTALLED) ## fail when the committed client for threads is not what that generates
	$(BIN)/python client/twins.py --check

reference: $(INSTALLED) ## write the SDK's reference, made of its docstrings, to build/reference
	$(BIN)/pdoc --docformat markdown -o build/reference challenge_client challenge_client.testing

client-alone: $(INSTALLED) ## build the SDK and test it alone, with lowest and newest versions, on each Python at hand (four minutes each)
	$(BIN)/python -m tests.client_alone

LOCK := uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate --no-header \
	--no-emit-package challenge-rules --no-emit-package challenge-client
lock: ## compile the lock files again (needs uv)
	$(LOCK) --extra dev pyproject.toml -o requirements/dev.lock
	$(LOCK) pyproject.toml -o requirements/service.lock
	$(LOCK) requirements/build.in -o requirements/build.lock
	$(LOCK) requirements/stubs.in -o requirements/stubs.lock

ci: ## everything that must hold before a change lands
	bash .ci/run

clean: ## remove environments and caches
	rm -rf $(VENV) $(STUBS_VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
