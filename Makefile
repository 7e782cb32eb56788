# `make help` says what there is. Everything works on a clean checkout of Debian or Ubuntu; `make setup` comes first
# by itself. Root is needed to make machines (namespaces): where the user is not root, sudo is used for just that.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

export TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
export CARGO_TARGET_DIR := $(TARGET)
export SUDO := $(if $(filter 0,$(shell id -u)),,sudo -E env PATH=$(PATH))

# The lints compile the very same crates as the tests: one profile, and dependencies are shared with a plain build.
LINTED := RUSTC_WORKSPACE_WRAPPER=clippy-driver CLIPPY_ARGS=-Dwarnings__CLIPPY_HACKERY__

.PHONY: help
help: ## What there is
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 16

.PHONY: setup
setup: ## Install what is missing (apt packages, cargo-nextest, Python packages of the tests); safe to repeat
	@tests/scripts/setup.sh

.PHONY: build
build: setup ## Compile both programs: target/release/ec2mpi and target/release/ec2mpi-agent
	cargo build --release --workspace --bins

.PHONY: demo
demo: build ## Four machines on the local cloud, an MPI program on them, its physics checked, everything gone again
	@$(SUDO) tests/demo.sh

.PHONY: lint
lint: setup ## Formatting and lints, warnings as errors
	cargo fmt --all --check
	$(LINTED) cargo build --release --workspace --bins --tests

.PHONY: check
check: lint ## The fast subset: lint and all tests that need no machine
	$(LINTED) tests/scripts/test.sh --profile check

.PHONY: test
test: lint ## Everything: lint, unit tests, scenarios on the local cloud; in the end a look for what was left behind
	$(LINTED) tests/scripts/test.sh

.PHONY: soak
soak: lint ## The long forms of the tests that have one: minutes to hours; the machine should do nothing else
	EC2MPI_SOAK=1 EC2MPI_MODEL_CASES=20000 $(LINTED) tests/scripts/test.sh --profile soak
	EC2MPI_SOAK=1 $(LINTED) tests/scripts/on-seaweedfs.sh

.PHONY: soak-seaweedfs
soak-seaweedfs: lint bench-setup ## The part of `make soak` that runs on SeaweedFS, which it installs
	EC2MPI_SOAK=1 $(LINTED) tests/scripts/on-seaweedfs.sh

.PHONY: bench-setup
bench-setup: setup ## Install what `make bench` compares with: s3fs, rclone, JuiceFS, and SeaweedFS to run on
	@tests/scripts/bench-setup.sh

.PHONY: bench
bench: bench-setup ## The volume beside others on the same S3 server, in 40 minutes: target/bench/volume.json and .md
	cargo build --release --workspace --bins --example bucket
	$(SUDO) $(TARGET)/release/volume-bench $(BENCH)

.PHONY: bench-quick
bench-quick: bench-setup ## The same with a quarter of everything, in 8 minutes
	cargo build --release --workspace --bins --example bucket
	$(SUDO) $(TARGET)/release/volume-bench --quick $(BENCH)

.PHONY: bench-record
bench-record: ## Put the table of the last of these into docs/performance.md
	@tests/scripts/bench-record.sh

.PHONY: clean
clean: ## Remove what was compiled
	cargo clean
