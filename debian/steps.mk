# Where the build departs from debhelper's own steps, and why. The rules that stdeb writes include this file too (see setup.cfg).
export PYBUILD_NAME = tcpnewconn

# The tests make network namespaces and boot containers, which a build may not; `make test` and debian/tests run them.
export PYBUILD_DISABLE = test

# The man pages are written in scdoc, which debhelper does not know.
execute_before_dh_installman:
	$(MAKE) man

# The socket holds what happens while the service is down, and comes and goes with the service (Wants=, StopWhenUnneeded=).
# Were it named in the maintainer scripts, an upgrade would restart it and so empty it. The figures by HTTP are off until asked for.
override_dh_installsystemd:
	dh_installsystemd --exclude=tcpnewconn.socket
	dh_installsystemd --name=tcpnewconn-metrics --no-enable --no-start --no-stop-on-upgrade

# debhelper does this by itself from compatibility level 14 on. The user must be there before its files are made.
execute_before_dh_installtmpfiles:
	dh_installsysusers
