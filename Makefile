# make run: the main job in the foreground; make check: what needs no root, in about a minute; make test: everything; make bench: measurements.
SHELL := /bin/bash
PYTHON := /usr/bin/python3
VENV := .venv

# The packages in a file, unless all are installed. dpkg-query succeeds for those, too, that others only name. Without the lists
# of all files (Contents), which are large: apt-file, which stdeb depends on, asks for them.
define install
if [ "$$(dpkg-query -W -f '$${db:Status-Status}\n' $$(cat $(1)) 2>/dev/null | grep -cx installed)" -lt "$$(wc -w <$(1))" ]; then \
    apt-get update -qq -o Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled=false && \
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$(cat $(1)); \
fi
endef

.PHONY: run check test bench

run:
	@$(PYTHON) -m tcpnewconn

# While you work: linters, unit tests, recorded histories, documents against code. No root, nothing from apt.
check: $(VENV)/ready
	@$(VENV)/bin/python -m tests check

# Before you hand in, as root on Debian 13: stage by stage, up to the first that fails. KEEP_GOING=1 runs all of them,
# STAGES="kernel booted" these, TESTS=tests/kernel/test_cgroups.py these tests alone.
test: packages $(VENV)/ready
	@$(VENV)/bin/python -m $(if $(TESTS),pytest -n 2 --dist loadgroup $(TESTS),tests $(if $(KEEP_GOING),--keep-going) $(STAGES))

# The package on Debian 13 of another architecture, emulated; outside of make test, because it takes many minutes.
.PHONY: test-arm64
test-arm64: packages $(VENV)/ready
	@$(call install,tests/packages-arm64.txt)
	@$(VENV)/bin/python -m pytest -m arm64 tests/machine

# The tools to compare with come from Debian too (bench/packages.txt). GROUPS="poll memory" measures only those groups.
bench: packages $(VENV)/ready
	@$(call install,bench/packages.txt)
	@$(VENV)/bin/python -m bench $(GROUPS)

# The Python packages of the tests; installed again when the list changes.
$(VENV)/ready: tests/requirements.txt
	$(PYTHON) -m venv --clear --system-site-packages $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@touch $@

# The Debian packages of the tests. It comes first, because python3-venv is one of them.
.NOTPARALLEL:
.PHONY: packages
packages:
	@$(call install,tests/packages.txt)

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
