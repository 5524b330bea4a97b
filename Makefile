# `make` lists what can be made. Everything goes through tools/setup, which brings what the machine lacks and
# writes env.sh, so cargo finds it. Plain `cargo build` works too where libclang and a C++ compiler are
# installed; RocksDB then takes about 15 minutes instead of 4.

SHELL := /bin/sh
ADTALLY_CACHE ?= $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/adtally
CARGO_TARGET_DIR ?= $(CURDIR)/target
export ADTALLY_CACHE CARGO_TARGET_DIR

# Read anew by every recipe line, because make starts a new shell for each.
env := . "$(ADTALLY_CACHE)/env.sh" &&
adtally := "$(CARGO_TARGET_DIR)/debug/adtally"

.DEFAULT_GOAL := help
.PHONY: help setup setup-tests setup-bench first-build build demo lint checks test test-cluster simulate bench growth exact kills faults cluster-faults fuzz clean-cache
# What is to be made first stands first in each list; cargo uses all cores by itself.
.NOTPARALLEL:

help: ## lists the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "  ARGS=... is handed on by demo, bench, growth, fuzz, test-cluster, exact, kills, faults and cluster-faults."
	@echo "  CARGO_TARGET_DIR=... and ADTALLY_CACHE=... say where the artifacts and the cache lie."

setup: ## brings nats-server, libclang and a quickly built RocksDB into the cache folder
	@tools/setup

setup-tests:
	@tools/setup --tests

setup-bench:
	@tools/setup --bench

# Said before the wait, not after it; cargo's own bar counts the crates.
first-build:
	@test -d "$(CARGO_TARGET_DIR)/debug/deps" || \
		echo "first build: 300 crates and adtally itself, about 6 min on 2 cores (once); cargo shows how far it is" >&2

build: setup first-build ## builds adtally
	@$(env) cargo build --workspace --locked

demo: build ## builds adtally and shows it at work
	@$(env) $(adtally) demo $(ARGS)

lint: setup first-build checks ## checks the format and runs clippy, warnings are errors

checks:
	@cargo fmt --all --check
	@$(env) cargo clippy --workspace --all-targets --locked -- -D warnings

# Without documentation tests, each of which would be linked with RocksDB by itself, and without examples, which
# hold no tests.
test: setup-tests first-build checks ## checks the format, runs clippy and all tests against real nats-servers
	@$(env) cargo test --workspace --lib --bins --tests --locked

test-cluster: setup-tests first-build ## runs the integration tests on three nats-servers instead of one
	@$(env) ADTALLY_TEST_SERVERS=3 cargo test --test integration --locked -- $(ARGS)

# The pure crates and the model only: nothing to set up.
simulate: ## runs worlds of the simulator: SEEDS=20000 [START=0], or one again: SEED=7 [TRACE=1] [BUG=...]
	@cargo run --quiet --locked -p adtally-simulator -- \
		$(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),10000) --start $(or $(START),0)) \
		$(if $(TRACE),--trace) $(if $(BUG),--bug $(BUG))

bench: setup-bench build ## runs the benchmarks, DuckDB and ClickHouse beside them
	@$(env) tools/bench $(ARGS)

# Wants cargo-fuzz and a nightly compiler, which nothing else needs: fuzz/README.md says how to get them.
fuzz: ## fuzzes frames, raw events and URLs, a minute each
	@for target in frames raw_events urls; do \
		dict=fuzz/$$target.dict; \
		cargo +nightly fuzz run $$target --target-dir "$(CARGO_TARGET_DIR)/fuzz" -- \
			-max_total_time=60 -max_len=65536 $$(test -f $$dict && echo -dict=$$dict) $(ARGS) || exit 1; \
	done

growth: build ## measures the fold at 1, 2 and 8 shards and 1, 10 and 100 million events (about 20 min)
	@$(env) $(adtally) bench --only growth --shards 1,2,8 --events 1000000,10000000,100000000 $(ARGS)

clean-cache: ## removes the cache folder: RocksDB, nats-server, libclang, test clients, CI artifacts
	rm -rf "$(ADTALLY_CACHE)"

# Longer than a test may take; the last figures stand in the README.
oracle := "$$ADTALLY_TEST_PYTHON" tests/oracle
oracle_programs := --adtally $(adtally) --nats-server "$$ADTALLY_NATS_SERVER"

exact: setup-tests build ## sends a million mixed events by every way in and compares every cell
	@$(env) $(oracle)/exact.py $(oracle_programs) --events 1000000 --seed 1 --restart $(ARGS)

kills: setup-tests build ## kills every process at each fail point and at random, 200 times, and compares every cell
	@$(env) $(oracle)/kills.py $(oracle_programs) --seed 2 --kills 200 $(ARGS)

faults: setup-tests build ## disks full, cloned, lost and flipped, a wrong clock, another stream: ARGS names the scenarios
	@$(env) $(oracle)/faults.py $(oracle_programs) --seed 3 $(ARGS)

# Where the kernel allows no network namespaces, or without root, the partitions are left out, and it says so.
cluster-faults: setup-tests build ## loses leaders, quorum, cables and everything on three nats-servers, and compares every count
	@$(env) $(oracle)/cluster.py $(oracle_programs) $(ARGS)
