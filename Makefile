# make demo    builds, then runs examples/tour.lab on real parts (KEEP=1 leaves the federation up)
# make test    all checks and tests, those on real parts too
# make test-long   what takes too long for that: labs killed at KILLS random moments (30)
# make check   format, vet, linters, import law, race, short fuzz, govulncheck
# make bench-map646   the translator beside plain forwarding and TAYGA (ARGS="-quick", -h for more)
# make bench-controller   a site with 1,000 simulated agents and 5,000 watchers (ARGS="-quick", -h for more)
# make bench-page         the web page of a site with 1,000 hosts and 20,000 VMs, in Chromium; ten minutes (ARGS="-quick", -h)
# make bench-koshien      the viewers' server beside Debian's nginx (ARGS="-quick", -h for more)
# make lab     FILE=examples/page.lab runs one script

SHELL := /bin/bash
GO    ?= go
BIN   := bin
LABS  := $(filter-out examples/tour.lab examples/debian.lab,$(wildcard examples/*.lab))
export GOFLAGS := -trimpath -buildvcs=false

.PHONY: build deps deps-test demo lab test test-long check real bench-map646 bench-controller bench-page bench-koshien clean

deps:
	@scripts/deps

deps-test:
	@scripts/deps --test

build:
	CGO_ENABLED=0 $(GO) build -ldflags '-s -w' -o $(BIN)/wcc ./cmd/wcc
	CGO_ENABLED=0 $(GO) build -ldflags '-s -w' -o $(BIN)/map646 ./cmd/map646
	CGO_ENABLED=0 $(GO) build -ldflags '-s -w' -o $(BIN)/sentryd ./cmd/sentryd
	CGO_ENABLED=0 $(GO) build -ldflags '-s -w' -o $(BIN)/sentryc ./cmd/sentryc
	CGO_ENABLED=0 $(GO) build -ldflags '-s -w' -o $(BIN)/lab-guest ./internal/lab/guest

demo: deps build
	$(BIN)/wcc lab run $(if $(KEEP),--keep) examples/tour.lab

lab: deps build
	$(BIN)/wcc lab run $(if $(KEEP),--keep) $(FILE)

test: deps-test build check real
	$(BIN)/wcc lab run --cores $$(nproc) $(LABS) examples/tour.lab

check: deps-test
	@scripts/check

# Packages one after the other: many of them make namespaces and guests, and two cores are soon full. Those that need no
# machine are run by check.
real:
	$(GO) test -p 1 -count=1 -timeout 15m $$($(GO) list ./... | grep -vxFf <(scripts/pure))

# Some fifteen minutes.
test-long: deps-test
	$(GO) test -count=1 -timeout 2h -run TestKilledAnyTime ./internal/lab/play -kills $(or $(KILLS),30)

bench-map646: deps-test build
	$(GO) run ./internal/map646/bench $(ARGS)

bench-controller:
	$(GO) run ./internal/control/bench $(ARGS)

bench-page: deps-test
	scripts/page --deps
	$(GO) run ./internal/control/bench -page $(ARGS)

bench-koshien: deps-test
	$(GO) run ./internal/sentry/bench $(ARGS)

clean:
	rm -rf $(BIN)
