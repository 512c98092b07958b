# Every target says what it does: make help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
CARGO ?= cargo
KUBE_VERSION ?= 1.36
export KUBE_VERSION
# Suites that start a real Kubernetes; all the others need none.
CLUSTER_TESTS := platform agreement live rescue install faults aspects provision local migrate
# Those of them that generate what they test with.
PROPERTY_TESTS := fuzzed properties fix admission
FAST_TESTS := $(filter-out $(CLUSTER_TESTS),$(patsubst tests/%.rs,%,$(wildcard tests/*.rs)))
CLUSTER := $(CARGO) run --quiet --package latebind-cluster --
# What the manifests name; built here, since tests use them as they are.
IMAGE := ghcr.io/latebind/latebind:0.1.0
# The binary that ships is static; `--target` keeps procedural macros as they are.
SHIPPED := $(shell uname -m)-unknown-linux-gnu

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

.PHONY: build
build: ## Build the binary: target/release/latebind
	$(CARGO) build --release --bin latebind

# The names of functions must say all of their types (v0) for dist/cc to tell them apart. Cargo does not know what the linker
# reads, hence the sum.
DIST := $(CARGO) rustc --locked --profile dist --bin latebind --target $(SHIPPED)
DIST_FLAGS := -C target-feature=+crt-static -C symbol-mangling-version=v0
DIST_SUM = $(shell cat dist/cc dist/functions.txt | cksum | cut -d ' ' -f 1)

.PHONY: dist
dist: ## The static binary that ships: target/ARCHITECTURE-unknown-linux-gnu/dist/latebind
	RUSTFLAGS="$(DIST_FLAGS)" $(DIST) -- -C linker=dist/cc -C link-arg=--order=dist/functions.txt:$(DIST_SUM)
	target/$(SHIPPED)/dist/latebind --version
	@head -n 1 target/$(SHIPPED)/dist/deps/order 2>/dev/null || echo "# no lld: functions stand as they come, and processes take 6 MiB more"

.PHONY: functions
functions: ## Write dist/functions.txt anew: what the roles run, watched by gdb (root on x86_64)
	$(CLUSTER) build
	CARGO_PROFILE_DIST_STRIP=none RUSTFLAGS="$(DIST_FLAGS)" $(DIST) --target-dir target/symbols
	dist/train.sh target/symbols/$(SHIPPED)/dist/latebind

.PHONY: demo
demo: ## From nothing to a deadlocked Pod running, on a real Kubernetes
	examples/demo.sh

.PHONY: demo-offline
demo-offline: ## The same story from manifests alone, without a cluster
	examples/demo-offline.sh

.PHONY: setup
setup: ## Say what this machine lacks; as root on Debian, install it
	@tests/setup.sh

.PHONY: test
test: setup lint test-fast test-cluster ## Everything that a change must pass

.PHONY: test-fast
# A seed of their own for the properties, so that a run says something about the change and not about luck.
test-fast: export PROPTEST_RNG_SEED ?= 20260501
test-fast: ## Cases, properties from a fixed seed, command line and admission over TLS: no cluster
	$(CARGO) test --no-fail-fast --package latebind --lib --bins $(addprefix --test ,$(FAST_TESTS))
	$(CARGO) test --no-fail-fast --package latebind --doc

.PHONY: test-cluster
test-cluster: ## The platform's facts and latebind, on a real control plane and real nodes
	$(CLUSTER) build
	$(CLUSTER) image $(IMAGE)
	$(CARGO) test --no-fail-fast --package latebind-cluster
	$(CARGO) test --no-fail-fast --package latebind $(addprefix --test ,$(CLUSTER_TESTS))

.PHONY: test-all
test-all: test ## The same, on every supported version of Kubernetes
	KUBE_VERSION=1.33 $(MAKE) test-cluster

# Cases of each property, from a seed that nobody has tried.
SOAK_CASES ?= 20000
.PHONY: soak
soak: ## Properties from random seeds, and the long forms of the tests that have one; writes docs/results/rescue.md
	PROPTEST_CASES=$(SOAK_CASES) $(CARGO) test --no-fail-fast --package latebind --lib $(addprefix --test ,$(PROPERTY_TESTS))
	$(CLUSTER) build
	$(CLUSTER) image $(IMAGE)
	LATEBIND_LONG_TESTS=1 LATEBIND_UPDATE=1 $(CARGO) test --no-fail-fast --package latebind --test rescue
	LATEBIND_LONG_TESTS=1 $(CARGO) test --no-fail-fast --package latebind --test local -- crash::
	LATEBIND_LONG_TESTS=1 $(CARGO) test --no-fail-fast --package latebind --test local -- hostile::

# Without a sanitizer the fuzzer needs no nightly compiler. It writes what it learns into target/, never beside the seeds.
FUZZ_SECONDS ?= 180
.PHONY: fuzz
fuzz: ## Throw bytes at path patterns, config.json and markers, FUZZ_SECONDS each (180)
	@$(CARGO) fuzz --version >/dev/null 2>&1 || $(CARGO) install --quiet --locked cargo-fuzz
	@for target in pattern config marker; do \
	  mkdir -p target/fuzz-corpus/$$target; \
	  $(CARGO) fuzz run --sanitizer none --target-dir target/fuzz $$target target/fuzz-corpus/$$target fuzz/seeds/$$target -- \
	    -max_total_time=$(FUZZ_SECONDS) -max_len=2048 -timeout=5 -print_final_stats=1 -verbosity=0; \
	done

.PHONY: lint
lint: ## Format, clippy, documentation, licences and advisories
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet
	$(CARGO) deny --log-level error check bans licenses sources
	@if $(CARGO) deny fetch db >/dev/null 2>&1; then $(CARGO) deny --log-level error check advisories; \
	else echo "lint: the advisory database cannot be reached from here; advisories were NOT checked"; fi

.PHONY: bench
bench: ## Speed and memory, as ratios within one run
	$(CARGO) bench --bench decide
	$(CARGO) bench --bench lint
	$(CARGO) bench --bench load
	$(CLUSTER) build
	$(MAKE) dist
	LATEBIND_BENCH_BINARY=target/$(SHIPPED)/dist/latebind $(CARGO) bench --bench provision
	$(CARGO) bench --bench cached
	LATEBIND_BENCH_BINARY=target/$(SHIPPED)/dist/latebind $(CARGO) bench --bench rescue

.PHONY: certs
certs: ## A certificate authority and serving certificate for development, in certs/
	$(CARGO) run --quiet --bin latebind -- certs --out certs

.PHONY: cluster
cluster: ## Start a real Kubernetes with two nodes that stays; prints the KUBECONFIG to export
	@$(CLUSTER) setup
	@$(CLUSTER) up --nodes 2

.PHONY: cluster-down
cluster-down: ## End that cluster and remove all of it
	@$(CLUSTER) down

.PHONY: cluster-status
cluster-status: ## Show what runs
	@$(CLUSTER) status

.PHONY: update
update: ## Write generated files anew: decisions, findings, expected outputs, install.yaml
	LATEBIND_UPDATE=1 $(CARGO) test --no-fail-fast --package latebind --lib --bins $(addprefix --test ,$(FAST_TESTS))
	$(CLUSTER) build
	LATEBIND_UPDATE=1 $(CARGO) test --package latebind --test install -- is_current
	LATEBIND_UPDATE=1 $(CARGO) test --package latebind --test local -- the_rendered_manifest_is_current

.PHONY: results
results: ## Write docs/results anew, from what the tests see on every supported version
	$(CLUSTER) build --all
	$(CLUSTER) image $(IMAGE)
	for version in 1.36 1.33; do \
	  KUBE_VERSION=$$version LATEBIND_UPDATE=1 $(CARGO) test --no-fail-fast --package latebind --test aspects --test faults; \
	done

.PHONY: clean
clean: ## Remove everything that was built
	$(CARGO) clean
