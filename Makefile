# Every target says what it does: make help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
CARGO ?= cargo
KUBE_VERSION ?= 1.37
export KUBE_VERSION
# What else is supported, and what will come next.
OLDER_VERSIONS := 1.36 1.35 1.34
NEXT_VERSION := 1.38
# Suites that start a real Kubernetes; all the others need none.
CLUSTER_TESTS := migrate install faults provision rescue agreement aspects platform profile live local
# Those of them that generate what they test with.
PROPERTY_TESTS := fuzzed properties fix admission
FAST_TESTS := latebind $(filter-out $(CLUSTER_TESTS) conformance,$(patsubst tests/%/main.rs,%,$(wildcard tests/*/main.rs)))
CLUSTER := tests/steps/cluster
# What the manifests name; built here, since tests use them as they are.
IMAGE := ghcr.io/latebind/latebind:0.1.0
# The binary that ships is static, see .cargo/config.toml.
SHIPPED := $(shell uname -m)-unknown-linux-gnu

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

.PHONY: build
build: ## Build the binary: target/ARCHITECTURE-unknown-linux-gnu/release/latebind
	$(CARGO) build --release --bin latebind

.PHONY: dist
dist: ## The static binary that ships: target/ARCHITECTURE-unknown-linux-gnu/dist/latebind
	$(CARGO) build --locked --profile dist --bin latebind --target $(SHIPPED)
	target/$(SHIPPED)/dist/latebind --version

.PHONY: release
release: ## What a release holds, for every system that this machine can build for: target/release-files
	packaging/release

.PHONY: demo
demo: ## From nothing to a deadlocked Pod running, on a real Kubernetes
	examples/demo.sh

.PHONY: demo-drain
demo-drain: ## A StatefulSet with local volumes, of whose nodes one is rebooted, one retired and one lost
	examples/demo-drain.sh

.PHONY: demo-offline
demo-offline: ## The same story from manifests alone, without a cluster
	examples/demo-offline.sh

.PHONY: setup
setup: ## Say what this machine lacks; as root on Debian, install it
	@$(CLUSTER) setup --tests
	@tests/setup.sh

# The steps of `make test`. A step waits for its prerequisites, and every step beside it is one that mostly waits: STEPS of them
# keep two cores busy, the longest first. `checks` compiles what nobody runs and would hold up one of them, so it comes with a
# place of its own. `local` runs as many real Pods as two cores start within their deadlines, so it has nothing beside it.
# `nice`: what has deadlines comes before what only takes time, and what others wait for before what nobody waits for.
STEPS ?= 3
RECORDS := target/steps
# `cluster`, which starts clusters only to look at them, is about as long as `rescue`.
SUITES := $(addprefix suite-,$(subst rescue,rescue cluster,$(CLUSTER_TESTS)))
ALONE := suite-local
ALL_STEPS := compile checks fast machine kubernetes image $(SUITES)
step = @LATEBIND_TESTS_BUILT=1 tests/steps/step $(@:suite-%=%) "$(if $(STEPS_DONE),everything else,$(patsubst suite-%,%,$^))"
export STEP_RECORDS := $(RECORDS)

.PHONY: test
test: ## Everything that a change must pass, and a table of what it took
	@rm -rf $(RECORDS) && mkdir -p $(RECORDS)
	@$(MAKE) --no-print-directory --jobs $(STEPS) --keep-going --output-sync=line $(filter-out $(ALONE),$(ALL_STEPS)) || true
	@[ ! -f $(RECORDS)/kubernetes.row ] || $(MAKE) --no-print-directory STEPS_DONE=1 $(ALONE) || true
	@tests/steps/table $(RECORDS) $(ALL_STEPS:suite-%=%)

.PHONY: $(ALL_STEPS)
compile:
	$(step) tests/steps/compile
fast: machine
	$(step) tests/steps/run $(FAST_TESTS)
machine: compile
	$(step) $(CLUSTER) setup --tests
kubernetes: machine
	$(step) nice -n 5 $(CLUSTER) build --tools
image: compile
	$(step) $(CLUSTER) image $(IMAGE)
# What was done before is not done again for a suite of its own.
$(SUITES): suite-%: $(if $(STEPS_DONE),,kubernetes image)
	$(step) tests/steps/run $*
checks: compile
	$(step) nice -n 19 $(MAKE) --no-print-directory lint

.PHONY: test-fast
test-fast: ## Cases, properties from a fixed seed, command line and admission over TLS: no cluster
	@mkdir -p $(RECORDS)
	tests/steps/compile
	tests/steps/run $(FAST_TESTS)
	$(CARGO) test --doc --workspace

.PHONY: test-cluster
test-cluster: ## The platform's facts and latebind, on a real control plane and real nodes
	@rm -rf $(RECORDS) && mkdir -p $(RECORDS)
	@$(MAKE) --no-print-directory --jobs $(STEPS) --keep-going --output-sync=line $(filter-out $(ALONE),$(SUITES)) || true
	@[ ! -f $(RECORDS)/kubernetes.row ] || $(MAKE) --no-print-directory STEPS_DONE=1 $(ALONE) || true
	@tests/steps/table $(RECORDS) compile machine kubernetes image $(SUITES:suite-%=%)

.PHONY: test-all
test-all: test ## The same, on every supported version of Kubernetes; what fails on the next one is said
	@for version in $(OLDER_VERSIONS); do KUBE_VERSION=$$version $(MAKE) --no-print-directory test-cluster; done
	@KUBE_VERSION=$(NEXT_VERSION) $(MAKE) --no-print-directory test-cluster || \
	  echo "PREVIEW: Kubernetes $(NEXT_VERSION) fails; it is not released yet, so this fails nothing"

# Cases of each property, from a seed that nobody has tried.
SOAK_CASES ?= 20000
# Random histories of volumes, against the decisions of src/volumes and a model of the disk.
SOAK_HISTORIES ?= 1000000
# Claims that come and go while everything fails.
SOAK_MINUTES ?= 480
.PHONY: soak
soak: ## Properties from random seeds, and the long forms of the tests that have one; writes docs/results/rescue.md and soak.md
	PROPTEST_CASES=$(SOAK_CASES) $(CARGO) test --no-fail-fast --package latebind --lib $(addprefix --test ,$(PROPERTY_TESTS))
	LATEBIND_HISTORIES=$(SOAK_HISTORIES) $(CARGO) test --release --package latebind --test volumes
	$(CLUSTER) build
	$(CLUSTER) image $(IMAGE)
	LATEBIND_LONG_TESTS=1 LATEBIND_UPDATE=1 $(CARGO) test --no-fail-fast --package latebind --test rescue
	LATEBIND_LONG_TESTS=1 $(CARGO) test --no-fail-fast --package latebind --test local -- crash::
	LATEBIND_LONG_TESTS=1 $(CARGO) test --no-fail-fast --package latebind --test local -- hostile::
	$(MAKE) dist
	LATEBIND_BENCH_BINARY=target/$(SHIPPED)/dist/latebind LATEBIND_SOAK_MINUTES=$(SOAK_MINUTES) \
	  LATEBIND_LONG_TESTS=1 LATEBIND_UPDATE=1 $(CARGO) test --package latebind --test local -- soak:: --nocapture

.PHONY: conformance
conformance: ## Kubernetes' own storage suite against a class of ours; builds it first; writes docs/results/conformance.md
	$(CLUSTER) setup
	LATEBIND_CONFORMANCE=1 LATEBIND_LONG_TESTS=1 LATEBIND_UPDATE=1 KUBE_VERSION= \
	  $(CARGO) test --package latebind --test conformance

# Without a sanitizer the fuzzer needs no nightly compiler. It writes what it learns into target/, never beside the seeds.
FUZZ_SECONDS ?= 180
FUZZ_RUNS ?= -1
FUZZ_TARGETS ?= pattern config marker review manifests patch
.PHONY: fuzz
fuzz: ## Throw bytes at whatever is read from outside, FUZZ_SECONDS each (180); FUZZ_RUNS ends each after so many inputs
	@$(CARGO) fuzz --version >/dev/null 2>&1 || $(CARGO) install --quiet --locked cargo-fuzz
	@for target in $(FUZZ_TARGETS); do \
	  mkdir -p target/fuzz-corpus/$$target; \
	  case $$target in review) seeds=tests/data/reviews ;; manifests) seeds="fuzz/seeds/manifests tests/cases" ;; *) seeds=fuzz/seeds/$$target ;; esac; \
	  $(CARGO) fuzz run --sanitizer none --target-dir target/fuzz $$target target/fuzz-corpus/$$target $$seeds -- \
	    -max_total_time=$(FUZZ_SECONDS) -runs=$(FUZZ_RUNS) -max_len=4096 -timeout=5 -report_slow_units=1 -print_final_stats=1 -verbosity=0 || exit 1; \
	done

.PHONY: lint
lint: ## Format, clippy, documentation, licences and advisories
	@tests/setup.sh
	$(CARGO) fmt --all --check
	$(CARGO) fmt --manifest-path fuzz/Cargo.toml --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	tests/steps/platforms
	$(CARGO) test --quiet --workspace --doc
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet
	$(CARGO) deny --log-level error check bans licenses sources
	@if $(CARGO) deny fetch db >/dev/null 2>&1; then $(CARGO) deny --log-level error check advisories; \
	else echo "lint: the advisory database cannot be reached from here; advisories were NOT checked"; fi

.PHONY: bench
bench: ## Speed and memory, as ratios within one run
	$(CARGO) bench --bench decide
	$(CARGO) bench --bench lint
	$(CARGO) bench --bench load
	$(CARGO) bench --bench scale
	$(CLUSTER) build
	$(MAKE) dist
	LATEBIND_BENCH_BINARY=target/$(SHIPPED)/dist/latebind $(CARGO) bench --bench provision
	LATEBIND_BENCH_BINARY=target/$(SHIPPED)/dist/latebind $(CARGO) bench --bench disks
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
	LATEBIND_UPDATE=1 $(CARGO) test --no-fail-fast --package latebind --lib --bins $(addprefix --test ,$(filter-out latebind,$(FAST_TESTS)))
	$(CLUSTER) build
	LATEBIND_UPDATE=1 $(CARGO) test --package latebind --test install -- is_current prints_what
	LATEBIND_UPDATE=1 $(CARGO) test --package latebind --test local -- the_rendered_manifest_is_current

.PHONY: results
results: ## Write docs/results anew, from what the suites see on every supported version
	$(CLUSTER) build --all --tools
	@for version in $(KUBE_VERSION) $(OLDER_VERSIONS); do \
	  KUBE_VERSION=$$version LATEBIND_UPDATE=1 $(MAKE) --no-print-directory test-cluster RECORDS=target/matrix/$$version || true; \
	done
	tests/steps/matrix target/matrix $(SUITES:suite-%=%)

.PHONY: clean
clean: ## Remove everything that was built here; Kubernetes stays in the cache that clones share
	$(CARGO) clean
	@echo "Kubernetes' binaries stay in $${LATEBIND_KUBE_CACHE:-$${XDG_CACHE_HOME:-$$HOME/.cache}/latebind/kubernetes}"
