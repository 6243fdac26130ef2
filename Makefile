# make run: the main job in the foreground; make test: everything that must be true; make bench: the figures.
SHELL := /bin/bash
PYTHON := /usr/bin/python3
VENV := .venv

.PHONY: run test bench deps

run:
	@$(PYTHON) -m tcpnewconn

test: $(VENV)/ready
	$(VENV)/bin/python -m pytest -n 2 --dist loadgroup $(TESTS)

# What it is compared with comes from Debian too (bench/packages.txt). GROUPS="read memory" measures only those.
bench: $(VENV)/ready
	@if ! dpkg-query -W $$(cat bench/packages.txt) >/dev/null 2>&1; then \
	    apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$(cat bench/packages.txt); \
	fi
	@$(VENV)/bin/python -m bench $(GROUPS)

# Tests need Debian's packages (tests/packages.txt) and Python's (tests/requirements.txt); the stamp is made anew when either list changes.
$(VENV)/ready: tests/packages.txt tests/requirements.txt
	if ! dpkg-query -W $$(cat tests/packages.txt) >/dev/null 2>&1; then \
	    apt-get update -qq && \
	    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$(cat tests/packages.txt); \
	fi
	$(PYTHON) -m venv --clear --system-site-packages $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	touch $@

# The man pages, written in scdoc.
.PHONY: man deb release
man: $(patsubst %.scd,%,$(wildcard man/*.scd))

man/%: man/%.scd
	scdoc <$< >$@

# The Debian package (.dsc, .deb, .changes, sdist), into dist/.
deb:
	@packaging/install-tools
	packaging/make-deb

# A tagged release (docs/release.md): make release VERSION=x.y.z
release:
	@packaging/install-tools
	packaging/make-release "$(VERSION)"

# A signed apt repository (docs/fleet.md), of the package of this tree and what was published before:
#   make repo [REPOSITORY=dist/repository] [KEY=whose secret key signs] [DEBS="several .deb"]
.PHONY: repo
REPOSITORY := dist/repository
DEBS = dist/*.deb
repo: $(if $(filter command line,$(origin DEBS)),,deb)
	packaging/make-repo $(if $(KEY),--key "$(KEY)") "$(REPOSITORY)" $(DEBS)
