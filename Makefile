# Ishmael: set-up, first container, tests. Needs root on Debian 12 or later, or Ubuntu 24.04 or later.
# The distribution's own interpreter, which PACKAGES brings: it is built with profiles, half as fast again as one that is not.
PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
SETUP := $(VENV)/.installed
SYSTEM := .tools/.installed
PACKAGES := python3-venv busybox-static nftables libnftables1 iproute2 procps tini e2fsprogs

.PHONY: demo test serve check docs clean setup bench crash crash-matrix simulate guest

demo: setup
	$(BIN)/python scripts/demo.py

test: setup tools check
	$(BIN)/python -m pytest -n 2 --dist loadfile

# The crash harness at length: fifty kills at random moments, a hundred of them with images on their way, 200 networks
# with 500 endpoints, six deaths of each operation, and pulls over two hundred bad networks. The suite runs it with six,
# six, 16, two and twelve.
crash: setup tools
	ISHMAEL_CRASHES=50 ISHMAEL_IMAGE_CRASHES=100 ISHMAEL_NETWORKS=200 ISHMAEL_CRASH_SAMPLE=6 \
	  $(BIN)/python -m pytest tests/crash -s
	ISHMAEL_FAULT_SEEDS=200 $(BIN)/python -m pytest tests/reactors/images/test_faulty_networks.py

# Whole engines in one process, by seed, over a simulated machine on which everything goes wrong. One alone takes a
# quarter of a second; what failed is named, and `python -m tests.simulation SEED` repeats it.
SEEDS ?= 10000
FIRST ?= 0
JOBS ?= $(shell nproc)
simulate: setup
	$(BIN)/python -m tests.simulation --first $(FIRST) --count $(SEEDS) --jobs $(JOBS)

# Every operation, every point, whoever dies: some 3,300 deaths, half an hour on two processors. docs/reliability.md is
# written anew.
crash-matrix: setup tools
	rm -f .crash-matrix.jsonl
	ISHMAEL_CRASH_MATRIX=full ISHMAEL_CRASH_TABLE=$(CURDIR)/.crash-matrix.jsonl \
	  $(BIN)/python -m pytest -n 3 --dist worksteal tests/crash/test_matrix.py
	$(BIN)/python -m tests.crash.points.table .crash-matrix.jsonl

# What only shows on a host of cgroup v2 that systemd runs. ENGINE_VM is a program whose `run -- COMMAND` runs a command
# in such a guest, as root and with the current folder at its own path; without one there is nothing to do.
# Some of them: make guest GUEST_TESTS="tests/compat/test_macvlan.py tests/compat/test_quota.py".
ENGINE_VM ?= engine-vm
GUEST_TESTS := tests/compat/test_systemd_scopes.py tests/compat/test_resources.py \
  tests/contracts/test_runtime_lifecycle.py tests/compat/test_security_options.py::test_apparmor_confines \
  tests/compat/test_logging.py::test_the_journal_finds_a_containers_lines_by_its_name \
  tests/compat/test_macvlan.py tests/compat/test_quota.py \
  tests/contracts/test_network_publishing.py::test_a_published_sctp_port_answers_another_host_and_a_sibling
guest: setup tools
	ENGINE_VM=$(ENGINE_VM) scripts/guest.sh $(GUEST_TESTS)

check: setup
	$(BIN)/ruff check engine replay tests scripts
	$(BIN)/mypy
	$(BIN)/lint-imports

serve: setup
	$(BIN)/ishmaeld

docs: setup
	$(BIN)/python -m engine.reference
	$(BIN)/python -m engine.lifecycles
	$(BIN)/python -m engine.config_reference > docs/reference/config.md

setup: $(SYSTEM) $(SETUP)

# The distribution's programs that the engine itself uses, its first container is made of, or a full disk is tried with.
$(SYSTEM): Makefile
	mkdir -p .tools
	scripts/install-packages.sh $(PACKAGES)
	touch $@

$(SETUP): requirements.lock pyproject.toml | $(SYSTEM)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --no-build-isolation --editable .
	$(BIN)/python -m compileall -q engine replay
	touch $@

# What only tests need: installed where that starts nothing, else fetched. Ubuntu has chromium as a snap only.
TEST_PACKAGES := curl xfsprogs
.PHONY: tools
tools: $(SYSTEM)
	scripts/install-packages.sh $(TEST_PACKAGES)
	scripts/install-packages.sh chromium || echo "no chromium: the tests that look at reports will be skipped" >&2
	scripts/fetch-tools.sh

clean:
	rm -rf $(VENV) .tools build *.egg-info .mypy_cache .ruff_cache .pytest_cache
