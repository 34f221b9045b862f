# Everything that is done to this repository is a target here; `make` alone lists them.
# Needs Go, make, git and npm. Tools are built from source at the versions below, once, into
# TOOLS. No target installs anything elsewhere, but for make test, as root on Debian.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

GO ?= go
MODULE := github.com/sendhouse/sendhouse

# --- What goes into the binary

VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
REVISION ?= $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
LDFLAGS  := -s -w -X $(MODULE)/pkg/telemetry.version=$(VERSION) -X $(MODULE)/pkg/telemetry.revision=$(REVISION)

# --- Tools, pinned

GOLANGCI_LINT_VERSION := v2.15.0
BUF_VERSION           := v1.75.0
GOVULNCHECK_VERSION   := v1.9.0
REDOCLY_VERSION       := 2.77.0
OAPI_CODEGEN_VERSION  := v2.8.2
OAPI_RUNTIME_VERSION  := v1.9.0
OPENAPI_TS_VERSION    := 7.13.0
# The newest that runs in Node 20.
HEY_API_VERSION       := 0.95.0
TYPESCRIPT_VERSION    := 5.9.3
PYRIGHT_VERSION       := 1.1.414

TOOLS         := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/sendhouse/tools
GOLANGCI_LINT := $(TOOLS)/golangci-lint@$(GOLANGCI_LINT_VERSION)/golangci-lint
BUF           := $(TOOLS)/buf@$(BUF_VERSION)/buf
GOVULNCHECK   := $(TOOLS)/govulncheck@$(GOVULNCHECK_VERSION)/govulncheck
REDOCLY       := $(TOOLS)/redocly@$(REDOCLY_VERSION)/node_modules/.bin/redocly
# Beside the generator is a module that holds what its output imports; beside tsc are the generators and pyright.
OAPI_CODEGEN  := $(TOOLS)/oapi-codegen@$(OAPI_CODEGEN_VERSION)-$(OAPI_RUNTIME_VERSION)/oapi-codegen
TYPESCRIPT    := $(TOOLS)/typescript@$(TYPESCRIPT_VERSION)-$(OPENAPI_TS_VERSION)-$(HEY_API_VERSION)-$(PYRIGHT_VERSION)/node_modules/.bin/tsc
# The plugins of protoc are built from the modules in go.mod: the generator and the library that its
# output needs are then always of one version.
PLUGINS       := $(TOOLS)/plugins-$(shell $(GO) env GOVERSION)

# --- Settings of the targets: make test TIMEOUT=5m PKG=./pkg/...

PKG      ?= ./...
TIMEOUT  ?= 40m
RUN      ?=
COUNT    ?= 1
FUZZTIME ?= 30s
BENCH    ?= .
ROUNDS   ?= 20
ARGS     ?=

## Working

.PHONY: help
help: ## List the targets.
	@awk 'BEGIN { FS = ":.*## " } \
		/^## / { printf "\n%s\n", substr($$0, 4) } \
		/^[a-z][a-z-]*:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: deps
deps: ## Fetch the embedded ClickHouse engine (libchdb), once; later calls need no network.
	$(GO) run ./pkg/chdb/fetch

.PHONY: build
build: ## Build bin/sendhouse.
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/sendhouse .

.PHONY: run
run: deps build ## Fetch, build, and run everything in one process; ARGS is passed on.
	bin/sendhouse up $(ARGS)

.PHONY: generate
generate: $(BUF) plugins ## Write what is generated: pkg/message/*.pb.go, the dashboards, docs/reference/settings.md.
	cd pkg/message && PATH="$(PLUGINS):$$PATH" $(BUF) generate
	$(GO) run ./deploy/grafana/generate deploy/grafana/dashboards
	SETTINGS_PAGE=write $(GO) test -count=1 -run '^TestSettingsAreDocumented$$' .

.PHONY: fmt
fmt: $(GOLANGCI_LINT) ## Format the code and sort its imports.
	$(GOLANGCI_LINT) fmt

.PHONY: clean
clean: ## Remove what was built here. Keeps ./data and the tools.
	rm -rf bin coverage.out

## Testing

# Tests whose names begin with TestEndToEnd start whole processes; they run without the race detector, after the
# others: it cannot look into those processes, and would only make them slow.
E2E_PKGS = $(sort $(dir $(shell grep -rl --include='*_test.go' '^func TestEndToEnd' $(PKG:%/...=%) 2>/dev/null)))
E2E_RUN  = $(if $(RUN),$(filter TestEndToEnd% ^TestEndToEnd%,$(RUN)),^TestEndToEnd)

# It installs what it may, and names in its last lines what the tests lacked: .ci/with-servers.
.PHONY: test
test: deps ## Run all tests: with the race detector, then the end-to-end ones and the long simulation without it.
	@.ci/with-servers $(MAKE) --no-print-directory test-all

.PHONY: test-all
test-all:
	$(GO) test -race -count=$(COUNT) -timeout $(TIMEOUT) $(if $(RUN),-run '$(RUN)') -skip '^TestEndToEnd' $(PKG)
	$(if $(and $(E2E_PKGS),$(E2E_RUN)),$(GO) test -count=$(COUNT) -timeout $(TIMEOUT) -run '$(E2E_RUN)' $(E2E_PKGS))
	$(if $(RUN)$(PKG:./...=),,$(MAKE) --no-print-directory sim)

.PHONY: chaos
chaos: deps ## Kill sequencers under load, ROUNDS times, let others sleep for 30 s, and check everything.
	CHAOS_ROUNDS=$(ROUNDS) CHAOS_SENDS=20000 CHAOS_PAUSE_MAX=10s ZOMBIE_PAUSE=30s \
		$(GO) test -count=1 -timeout 30m -parallel 1 -v -run '^TestEndToEnd(Chaos|ZombieSequencer)$$' ./pkg/testkit/e2e/

.PHONY: chaos-client
chaos-client: DURATION ?= 10m
chaos-client: deps ## Kill a client with a queue, its network and the server for DURATION, and check that each send is stored once, in order.
	CHAOS_CLIENT_FOR=$(DURATION) $(if $(SEED),TEST_SEED=$(SEED)) \
		$(GO) test -count=1 -timeout 24h -v -run '^TestEndToEndQueueChaos$$' ./pkg/testkit/e2e/

.PHONY: steady
steady: STEADY_FOR ?= 10m
steady: deps ## Send 5,000 messages a second for STEADY_FOR and see how soon their rows are there.
	STEADY_FOR=$(STEADY_FOR) STEADY_RATE=5000 STEADY_VISIBLE_MAX=2s $(GO) test -count=1 -timeout 30m -v -run '^TestEndToEndSteady$$' ./pkg/testkit/e2e/

.PHONY: read-back
read-back: PAIRS ?= 100000
read-back: deps ## Send and read back PAIRS times under load, embedded and roles apart, while processes are killed.
	READ_PAIRS=$(PAIRS) $(GO) test -count=1 -timeout 4h -parallel 1 -v -run '^TestEndToEndReadBack' ./pkg/testkit/e2e/

# DURATION, RATE and CHANNELS choose. Shorter than 30 minutes, the slopes are printed and not judged.
.PHONY: soak
soak: DURATION ?= 1h
soak: RATE ?= 1500
soak: CHANNELS ?= 1000000
soak: deps ## Send for DURATION with pauses, permission changes and short connections, and judge the slope of everything.
	SOAK_FOR=$(DURATION) SOAK_RATE=$(RATE) SOAK_CHANNELS=$(CHANNELS) $(GO) test -count=1 -timeout 24h -v -run '^TestEndToEndSoak$$' ./pkg/testkit/e2e/

.PHONY: faults
faults: deps ## The long fault tests: ClickHouse stopped for a minute, poison among 3,000,000 rows, networks cut for 30 s.
	WRITER_PAUSE=60s $(GO) test -count=1 -timeout 30m -v -run '^TestServerStoppedInMidInsert$$' ./writer
	WRITER_POISON_ROWS=3000000 $(GO) test -count=1 -timeout 30m -v -run '^TestEndToEnd(Poison|KilledAtEveryStep|DiskFull)$$' ./writer
	CUT=30s $(GO) test -count=1 -timeout 30m -v -run '^TestEndToEndCutFrom' ./pkg/testkit/e2e/

# CUTS cuts in each history (HISTORY='defaults,eager,blocks,cluster,queue') on each file system (FS='ext4,xfs,btrfs'), from SEED.
.PHONY: powercut
powercut: CUTS ?= 20
powercut: FS ?= ext4,xfs,btrfs
powercut: deps ## Cut the power under deployments on disks that forget what was not flushed, as root, and check everything.
	POWERCUT_CUTS=$(CUTS) POWERCUT_FS='$(FS)' POWERCUT_HISTORY='$(HISTORY)' $(if $(SEED),TEST_SEED=$(SEED)) \
		$(GO) test -count=1 -timeout 240m -parallel 1 -v -run '^TestEndToEndPowerCut' ./pkg/testkit/e2e/

.PHONY: alerts
alerts: deps ## Bring about what the alerts are there for, and see them fire in a real Prometheus.
	ALERTS=1 $(GO) test -count=1 -timeout 10m -v -run '^TestEndToEndAlerts$$' ./pkg/testkit/e2e/

.PHONY: image
image: ## Build the container images with buildah, as root, and run them read-only; without a registry: deploy/docker/standins.sh first.
	IMAGE=1 $(GO) test -count=1 -timeout 30m -v -run '^TestEndToEndImage$$' ./pkg/testkit/e2e/

.PHONY: clickhouse-cluster
clickhouse-cluster: deps ## Kill servers of a real ClickHouse cluster under load; wants Debian's clickhouse-server and zookeeper.
	CLICKHOUSE_CLUSTER=1 $(GO) test -count=1 -timeout 10m -v -run '^TestRealCluster$$' ./writer/clickhouse/

.PHONY: overload
overload: deps ## Offer a process twice what it can do, over 2,000 connections, and print what it does.
	OVERLOAD_DURATION=15s $(GO) test -count=1 -timeout 5m -v -run '^TestEndToEndOverload$$' ./pkg/testkit/e2e/

# CASES cases with the seeds from SEED on, chosen from those whose names have ONLY in them, such as ONLY=KV_SENDHOUSE/. A case that
# fails prints the command that runs it alone.
.PHONY: damage
damage: CASES ?= 400
damage: SEED ?= 1
damage: PARALLEL ?= 3
damage: deps ## Damage each stream, bucket, table and part in many ways, CASES times from SEED on, and see that it heals or is named.
	DAMAGE_CASES=$(CASES) DAMAGE_SEED=$(SEED) DAMAGE_ONLY='$(ONLY)' \
		$(GO) test -count=1 -timeout 4h -parallel $(PARALLEL) -v -run '^TestEndToEndDamage$$' ./pkg/testkit/e2e/

.PHONY: cover
cover: deps ## Write coverage.out and print the coverage of each package.
	$(GO) test -count=1 -timeout $(TIMEOUT) -coverprofile=coverage.out -coverpkg=./... $(PKG)
	$(GO) tool cover -func=coverage.out | tail -1

# RUNS seeds from SEED on; without SEED the first comes from the clock, and it is printed.
.PHONY: sim
sim: RUNS ?= 10000
sim: ## Simulate sequencers and all that may happen to them: RUNS runs, from SEED.
	$(GO) test -count=1 -v -timeout $(TIMEOUT) -run '^TestSimulation$$' ./sequencer/sim $(if $(SEED),-sim.seed=$(SEED)) -sim.runs=$(RUNS)

.PHONY: fuzz
fuzz: ## Run each fuzz test for FUZZTIME.
	for file in $$(grep -rl --include='*_test.go' '^func Fuzz' .); do \
		for name in $$(sed -n 's/^func \(Fuzz[A-Za-z0-9_]*\)(.*/\1/p' "$$file"); do \
			echo "$$file $$name"; \
			$(GO) test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 1s "$$(dirname "$$file")"; \
		done; \
	done

.PHONY: bench
bench: deps build ## Measure the whole against a handler that does nothing; ARGS='-cases 64,256 -rounds 5', ARGS=-help lists all.
	CGO_ENABLED=0 $(GO) run ./pkg/testkit/bench $(ARGS)

.PHONY: bench-compare
bench-compare: deps build ## Measure this tree and the revision BASE in pairs; ARGS is passed on as for bench.
	$(if $(BASE),,$(error say which revision to compare with: make bench-compare BASE=main))
	CGO_ENABLED=0 $(GO) run ./pkg/testkit/bench -base '$(BASE)' $(ARGS)

.PHONY: microbench
microbench: deps ## Run the Go benchmarks that match BENCH.
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem -timeout $(TIMEOUT) $(PKG)

## Checking

.PHONY: check
check: check-prose check-fmt vet lint check-openapi check-clients check-tidy check-generated check-vuln ## Check everything that must hold before a commit, except the tests.

.PHONY: check-prose
check-prose:
	@echo "prose"
	@.ci/prose

.PHONY: check-fmt
check-fmt: $(GOLANGCI_LINT)
	@echo "format"
	@$(GOLANGCI_LINT) fmt --diff

.PHONY: vet
vet: ## Run go vet.
	$(GO) vet ./...

.PHONY: lint
lint: $(GOLANGCI_LINT) ## Run the linters of .golangci.yml, import rules included.
	$(GOLANGCI_LINT) run --allow-parallel-runners ./...

.PHONY: check-openapi
check-openapi: $(REDOCLY) check-generators
	@echo "openapi.yaml"
	@REDOCLY_TELEMETRY=off REDOCLY_SUPPRESS_UPDATE_NOTICE=true $(REDOCLY) lint --extends=recommended-strict ingest/openapi/openapi.yaml 2>$(TOOLS)/redocly.log || \
		{ cat $(TOOLS)/redocly.log >&2; exit 1; }

# Generators of clients accept the document, and what they make of it compiles.
.PHONY: check-generators
check-generators: $(OAPI_CODEGEN) $(TYPESCRIPT)
	@echo "clients generated from openapi.yaml"
	@out=$$(mktemp -d); trap 'rm -rf "$$out"' EXIT; \
	quiet() { "$$@" >"$$out/$${1##*/}.log" 2>&1 || { echo "$$*" >&2; cat "$$out/$${1##*/}.log" >&2; exit 1; }; }; \
	cp $(dir $(OAPI_CODEGEN))module/go.* "$$out/"; \
	quiet $(OAPI_CODEGEN) -generate types,client -package api -o "$$out/api.go" ingest/openapi/openapi.yaml; \
	(cd "$$out" && GOWORK=off GOFLAGS=-mod=readonly quiet $(GO) vet .) & vet=$$!; \
	quiet $(dir $(TYPESCRIPT))openapi-typescript ingest/openapi/openapi.yaml --output "$$out/openapi-typescript.d.ts"; \
	quiet $(dir $(TYPESCRIPT))openapi-ts --input ingest/openapi/openapi.yaml --output "$$out/hey" --no-log-file; \
	quiet $(TYPESCRIPT) --noEmit --strict --target es2022 --module esnext --moduleResolution bundler --lib es2022,dom,dom.iterable \
		"$$out/openapi-typescript.d.ts" "$$out/hey/index.ts"; \
	wait $$vet

.PHONY: check-clients
check-clients: $(TYPESCRIPT)
	@echo "types of the clients"
	@$(TYPESCRIPT) --noEmit --strict --target es2022 --module esnext --moduleResolution bundler --lib es2022,dom,dom.iterable pkg/client/js/test/types.ts
	@cd pkg/client/python && out=$$($(dir $(TYPESCRIPT))pyright --pythonversion 3.9 sendhouse) || { echo "$$out" >&2; exit 1; }

.PHONY: check-tidy
check-tidy:
	$(GO) mod tidy -diff
	$(GO) mod verify

# Compares with a fresh copy and not with git, so that it also tells the truth about uncommitted work.
.PHONY: check-generated
check-generated: $(BUF) plugins
	@echo "generated code"
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	mkdir "$$fresh/have" "$$fresh/want"; \
	cp pkg/message/*.pb.go "$$fresh/have/"; \
	cp pkg/message/*.proto pkg/message/buf*.yaml "$$fresh/want/"; \
	(cd "$$fresh/want" && PATH="$(PLUGINS):$$PATH" $(BUF) generate && rm -f *.proto buf*.yaml); \
	cp deploy/grafana/dashboards/*.json "$$fresh/have/"; \
	$(GO) run ./deploy/grafana/generate "$$fresh/want"; \
	diff -ru "$$fresh/have" "$$fresh/want" || { echo "generated code is out of date: run 'make generate'" >&2; exit 1; }

.PHONY: vuln
vuln: $(GOVULNCHECK) ## Look for known vulnerabilities in what is used of the dependencies.
	$(GOVULNCHECK) ./...

# The database is on the internet. If it cannot be reached, this prints that and continues; anything else fails.
.PHONY: check-vuln
check-vuln: $(GOVULNCHECK)
	@code=0; out=$$(timeout 120 $(GOVULNCHECK) ./pkg/lifecycle 2>&1) || code=$$?; \
	if grep -q 'fetching vulnerabilities' <<<"$$out" || [ $$code -eq 124 ]; then \
		echo "vulnerabilities: SKIPPED, because the vulnerability database cannot be reached: $$(tail -1 <<<"$$out")"; \
	else \
		echo "vulnerabilities"; $(GOVULNCHECK) ./...; \
	fi

# --- Installing tools

# $(call install,package,version): installs into the folder of the target, whole or not at all.
define install
	@echo "installing $(1)@$(2)"
	@mkdir -p $(@D)
	@GOBIN=$(@D) GOFLAGS= $(GO) install $(1)@$(2)
endef

$(GOLANGCI_LINT):
	$(call install,github.com/golangci/golangci-lint/v2/cmd/golangci-lint,$(GOLANGCI_LINT_VERSION))
$(BUF):
	$(call install,github.com/bufbuild/buf/cmd/buf,$(BUF_VERSION))
$(GOVULNCHECK):
	$(call install,golang.org/x/vuln/cmd/govulncheck,$(GOVULNCHECK_VERSION))

# From npm; the plain name is made last, so that what was cut short is installed again.
$(REDOCLY):
	@echo "installing @redocly/cli@$(REDOCLY_VERSION)"
	@dir=$(TOOLS)/redocly@$(REDOCLY_VERSION); rm -rf "$$dir" "$$dir.new"; mkdir -p "$$dir.new"; \
	npm install --silent --no-audit --no-fund --no-save --prefix "$$dir.new" @redocly/cli@$(REDOCLY_VERSION); \
	mv "$$dir.new" "$$dir"

$(OAPI_CODEGEN):
	@echo "installing oapi-codegen@$(OAPI_CODEGEN_VERSION)"
	@rm -rf $(@D) $(@D).new; mkdir -p $(@D).new/module
	@GOBIN=$(@D).new GOFLAGS= $(GO) install github.com/oapi-codegen/oapi-codegen/v2/cmd/oapi-codegen@$(OAPI_CODEGEN_VERSION)
	@cd $(@D).new/module; $(GO) mod init api; \
		$(GO) get github.com/oapi-codegen/runtime@$(OAPI_RUNTIME_VERSION) go.yaml.in/yaml/v3@$$($(GO) -C $(CURDIR) list -m -f '{{.Version}}' go.yaml.in/yaml/v3)
	@mv $(@D).new $(@D)

$(TYPESCRIPT):
	@echo "installing typescript@$(TYPESCRIPT_VERSION), pyright@$(PYRIGHT_VERSION) and generators"
	@dir=$(patsubst %/node_modules/.bin/,%,$(dir $@)); rm -rf "$$dir" "$$dir.new"; mkdir -p "$$dir.new"; \
	npm install --silent --no-audit --no-fund --no-save --prefix "$$dir.new" \
		typescript@$(TYPESCRIPT_VERSION) pyright@$(PYRIGHT_VERSION) openapi-typescript@$(OPENAPI_TS_VERSION) @hey-api/openapi-ts@$(HEY_API_VERSION); \
	mv "$$dir.new" "$$dir"

.PHONY: plugins
plugins:
	@mkdir -p $(PLUGINS)
	@$(GO) build -o $(PLUGINS)/ google.golang.org/protobuf/cmd/protoc-gen-go \
		github.com/planetscale/vtprotobuf/cmd/protoc-gen-go-vtproto
