# `make` lists the targets. In CI (CI=true) what cargo builds is kept outside the tree, so that it can be cached.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test bench build images cluster cluster-down lint

ifeq ($(CI),true)
export CARGO_TARGET_DIR ?= $(or $(XDG_CACHE_HOME),$(or $(HOME),/root)/.cache)/signet/target
# A clean clone compiles each of our crates once: what would make the second time faster is only in the way.
export CARGO_INCREMENTAL := 0
endif
OUT := $(or $(CARGO_TARGET_DIR),target)
# Links our programs statically whatever they are built for, so that they also run in an empty image.
STATIC := RUSTC_WORKSPACE_WRAPPER=$(CURDIR)/tests/static-rustc
PROGRAMS := signet-ca signet-operator signet-sidecar signet
# make images FAST=1: from what the tests run, built in a fraction of the time
TAG ?= $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
# make cluster DIR=...: one cluster for each directory
DIR ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/signet/cluster/run
HOST := $(shell rustc -vV | sed -n 's/^host: //p')
# Relocations in a twentieth of the room (0.5 MB of the sidecar), where the C library knows them: glibc 2.36.
PACKED := $(shell printf 'glibc 2.36\n%s\n' "$$(getconf GNU_LIBC_VERSION)" | sort -CV && echo '-C link-arg=-Wl,-z,pack-relative-relocs')

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

demo: ## a zero-trust mesh on this machine, in a minute: every step shows and checks its claim
	tests/setup demo
	$(STATIC) cargo build --locked --profile fast --bins
	$(OUT)/fast/signet demo

test: ## every test, in real network namespaces and a real cluster; ends with one line that counts
	tests/setup test
	tests/run

bench: ## no mesh, HAProxy, nginx and Signet in one run; writes tests/bench/results.md
	tests/setup bench
	tests/bench/run

build: ## static release binaries, each proven in an empty root
	RUSTFLAGS="-C target-feature=+crt-static $(PACKED)" cargo build --locked --release --target $(HOST) --bins --workspace --exclude signet-tests
	tests/empty-root $(foreach b,signet signet-ca signet-operator signet-sidecar,$(OUT)/$(HOST)/release/$(b))

images: $(if $(FAST),fast,build) ## one container image for each program, as OCI tars in target/images
	$(STATIC) cargo build --locked --profile fast -p signet-tests --bin signet-images
	$(OUT)/fast/signet-images $(if $(FAST),$(OUT)/fast,$(OUT)/$(HOST)/release) $(OUT)/images docker.io/signet $(TAG) $(PROGRAMS)

.PHONY: fast
fast:
	$(STATIC) cargo build --locked --profile fast --workspace --bins

cluster: fast ## a Kubernetes cluster of two nodes on this machine, Signet installed in it; prints its KUBECONFIG
	tests/setup cluster
	$(OUT)/fast/signet-images $(OUT)/fast $(OUT)/images docker.io/signet $(TAG) $(PROGRAMS)
	$(OUT)/fast/signet-images $(OUT)/fast $(OUT)/images docker.io/signet test signet-workload
	tests/cluster/up $(DIR) $(foreach p,$(PROGRAMS) signet-workload,$(OUT)/images/$(p).tar)
	KUBECONFIG=$(DIR)/kubeconfig $$(tests/cluster/build)/helm install signet charts/signet -n signet-system --create-namespace --wait
	@echo 'export PATH=$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/signet/cluster/bin:$$PATH'

cluster-down: ## removes every trace of that cluster
	tests/cluster/down $(DIR)

lint: ## format, clippy, documentation, licences, bans, advisories
	cargo fmt --all --check
	timeout -v 30m cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" timeout -v 15m cargo doc --locked --workspace --no-deps --quiet
	tests/deny
