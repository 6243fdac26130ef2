# Where the build departs from debhelper's own steps, and why. The rules that stdeb writes include this file too (see setup.cfg).
export PYBUILD_NAME = tcpnewconn

# The tests make network namespaces and boot containers, which a build may not; `make test` and debian/tests run them.
export PYBUILD_DISABLE = test

# The man pages are written in scdoc, which debhelper does not know.
execute_before_dh_installman:
	$(MAKE) man

# The page about releases is of no use on a host; the picture of the dashboard is larger than the rest of the package.
override_dh_installdocs:
	dh_installdocs -Xdocs/release.md -X.png

# The pages link to each other, and in a browser a link to a compressed file does not work; nor does one to a file of the source tree.
override_dh_compress:
	packaging/relink . debian/tcpnewconn/usr/share/doc/tcpnewconn
	dh_compress -X.md -X.json

# The socket holds the notifications that arrive while the service is down, and starts and stops with the service (Wants=,
# StopWhenUnneeded=). If the maintainer scripts named it, an upgrade would restart it and so empty it. Metrics over HTTP are off by
# default; an upgrade restarts the exporter where it runs (postinst). The trace, and the notifications of other network namespaces, start
# and stop with the service, as the socket does.
# The ledger's timer is enabled and started; it starts the update.
override_dh_installsystemd:
	dh_installsystemd --exclude=tcpnewconn.socket --exclude=tcpnewconn-namespaces.socket \
		--exclude=tcpnewconn-namespaces.service --exclude=tcpnewconn-trace.service \
		--exclude=tcpnewconn-trace-repair.service --exclude=tcpnewconn-trace-repair.path
	dh_installsystemd --name=tcpnewconn-metrics --no-enable --no-start --no-stop-on-upgrade
	dh_installsystemd --name=tcpnewconn-ledger tcpnewconn-ledger.timer

# debhelper does this by itself from compatibility level 14 on. The user must exist before its files are made.
execute_before_dh_installtmpfiles:
	dh_installsysusers
