PYTHON ?= python3
BIN := .venv/bin
NAMES := $(addprefix --objects fixtures/kube/,pods.page1.json pods.page2.json services.json endpointslices.json nodes.json)
DEMO := demo.db
.DEFAULT_GOAL := help
.PHONY: help install tools demo demo-live test dist lint check bench docs site man clean

help: ## Show what there is to make.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

install: .venv/.installed ## Make .venv/bin/ctk, with the versions that were tested.
	@# Where PYTHONDONTWRITEBYTECODE is set, each start would compile ctk anew: 0.2 s.
	@$(BIN)/python -m compileall -q ctk migrations

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	@# On every core, where pip takes one, and without what nothing here imports: a third as long.
	$(BIN)/python -m compileall -q -j 0 -x '/(kubernetes/aio|pandas/tests|pip)/' .venv/lib
	@touch $@

tools: # What a node is played with, pages are looked at with, and releases are made with.
	@missing=; for tool in nft conntrack ip chromium cc patchelf podman runc tmux; do \
	command -v $$tool >/dev/null || missing=yes; done; \
	if [ "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	apt-get update -qq && export DEBIAN_FRONTEND=noninteractive && \
	apt-get install -y -qq nftables conntrack iproute2 chromium gcc libc6-dev tmux >/dev/null && \
	apt-get install -y -qq --no-install-recommends zlib1g-dev patchelf podman runc >/dev/null; fi

demo: install ## Record from a recording of a real node, and ask what was recorded.
	@rm -f $(DEMO) $(DEMO)-wal $(DEMO)-shm
	$(BIN)/ctk record $(DEMO) --from-capture fixtures/captures/demo.ctkcap.gz $(NAMES)
	@echo
	$(BIN)/ctk top $(DEMO) --limit 10
	@echo
	$(BIN)/ctk query $(DEMO) --failed --last 5
	@echo
	$(BIN)/ctk query $(DEMO) "select service, count(distinct src_name) as clients, sum(connections) as connections from flows where service is not null group by service order by connections desc"
	@echo
	@$(BIN)/ctk report $(DEMO) -o $(DEMO:.db=.html)

demo-live: install tools ## Play a node with pods in network namespaces, and record that (root).
	@rm -f $(DEMO) $(DEMO)-wal $(DEMO)-shm
	$(BIN)/python tests/live/playednode.py --seconds 20 -- $(BIN)/ctk record $(DEMO) --objects {objects} --node-name kl-control-plane --enable-accounting
	@echo
	$(BIN)/ctk top $(DEMO) --limit 10

test: install tools ## Run every test; those on the real kernel need root.
	@# Where PYTHONDONTWRITEBYTECODE is set, each worker would compile the tests anew: 8 s.
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/pytest -n 3 --dist loadgroup

dist: install tools ## Build what is released into dist/: sdist, wheel, the one file.
	$(BIN)/python release/dist.py dist

lint: install ## Check format, style, import order and types.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy

check: lint test ## All that CI runs.

bench: install tools ## Measure recording and reading beside other tools (root, minutes).
	$(BIN)/python tests/bench/record.py
	$(BIN)/python tests/bench/read.py
	$(BIN)/python tests/bench/page.py

docs: install tools ## Write the outputs in the documentation anew, from real runs, and its pictures.
	$(BIN)/python tests/docs.py --write
	$(BIN)/python tests/browser/pictures.py

site: install ## Make the documentation's site in build/site; a link that leads nowhere fails it.
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "build/site/index.html"

man: install ## Make manual pages and completion scripts in build/share, from the help.
	@$(BIN)/python release/manuals.py build/share
	@echo "man -l build/share/man/man1/ctk.1"

clean: ## Remove what was made.
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis $(DEMO)* $(DEMO:.db=.html)
