# fish completion for tcpnewconn(8)

# True if the options are those of one of these commands; without a command they are those of run.
function __tcpnewconn_is
    set -l words (commandline -opc)
    set -l command run
    if set -q words[2]; and not string match -q -- '-*' $words[2]
        set command $words[2]
    end
    contains -- $command $argv
end

function __tcpnewconn_first
    test (count (commandline -opc)) -eq 1
end

complete -c tcpnewconn -f
complete -c tcpnewconn -s h -l help -d 'show this help message and exit'

complete -c tcpnewconn -n __tcpnewconn_first -l version -d 'show the version and exit'
complete -c tcpnewconn -n __tcpnewconn_first -a run -d 'log every new TCP connection until stopped'
complete -c tcpnewconn -n __tcpnewconn_first -a status -d 'show whether the service works, and what it has counted'
complete -c tcpnewconn -n __tcpnewconn_first -a check-config -d 'check the configuration'
complete -c tcpnewconn -n __tcpnewconn_first -a show-config -d 'print the settings in force, and where each comes from'
complete -c tcpnewconn -n __tcpnewconn_first -a metrics-http -d 'serve the metrics over HTTP, on a socket that systemd passes'
complete -c tcpnewconn -n __tcpnewconn_first -a ledger -d 'keep the ledger: what the journal\'s entries add up to'
complete -c tcpnewconn -n __tcpnewconn_first -a report -d 'answer from the ledger: who talks to whom'

complete -c tcpnewconn -n '__tcpnewconn_is run' -l once -d 'poll once, log what is open, exit'
complete -c tcpnewconn -n '__tcpnewconn_is run' -l interval -x -a '100ms 1s 10s 1min' -d 'time between two polls, such as 10s or 500ms'
complete -c tcpnewconn -n '__tcpnewconn_is run' -l ignore -x \
    -d 'do not log these connections: rules of Ignore= in tcpnewconn.conf(5), in addition to those there'
complete -c tcpnewconn -n '__tcpnewconn_is run' -l output -x -a 'auto journal text json' \
    -d 'where to log; auto is the journal under systemd, else text'
complete -c tcpnewconn -n '__tcpnewconn_is run' -l procfs -x -a '(__fish_complete_directories)' \
    -d 'where /proc is mounted, or a directory of captured files'
complete -c tcpnewconn -n '__tcpnewconn_is run' -l state -r -F -d 'keep in this file what was logged; by default only under systemd'
complete -c tcpnewconn -n '__tcpnewconn_is run' -l metrics -r -F \
    -d 'write metrics for Prometheus to this file after every poll; by default only under systemd'

complete -c tcpnewconn -n '__tcpnewconn_is run check-config show-config ledger' -l config -r -F \
    -d 'read this file, in place of /etc/tcpnewconn.conf and its drop-ins'

complete -c tcpnewconn -n '__tcpnewconn_is status metrics-http' -l metrics -r -F -d 'read this file, in place of the service\'s'
complete -c tcpnewconn -n '__tcpnewconn_is status' -l json -d 'print one JSON object'

complete -c tcpnewconn -n '__tcpnewconn_is ledger' -a 'update copy'
complete -c tcpnewconn -n '__tcpnewconn_is ledger' -l namespace -x \
    -d 'with update: read this journal namespace'
complete -c tcpnewconn -n '__tcpnewconn_is ledger' -l directory -x -a '(__fish_complete_directories)' \
    -d 'with update: read a log server\'s journal files, into one ledger for each host'
complete -c tcpnewconn -n '__tcpnewconn_is ledger' -l ledger -r -F \
    -d 'the ledger; with --directory, a directory of them; default: /var/lib/tcpnewconn-ledger/ledger.db'

complete -c tcpnewconn -n '__tcpnewconn_is report' -a 'overview who to new quiet allow'
complete -c tcpnewconn -n '__tcpnewconn_is report' -l output -x -a 'text json csv html' \
    -d 'text is the default; html is a page'
complete -c tcpnewconn -n '__tcpnewconn_is report' -l since -x -a 'today yesterday -1h -7d' \
    -d 'as journalctl takes it: yesterday, 2026-11-01, -7d'
complete -c tcpnewconn -n '__tcpnewconn_is report' -l until -x -a 'today yesterday -1h -7d' \
    -d 'likewise'
complete -c tcpnewconn -n '__tcpnewconn_is report' -l ledger -r -F \
    -d 'one ledger or several; default: /var/lib/tcpnewconn-ledger/ledger.db'
complete -c tcpnewconn -n '__tcpnewconn_is report' -l clickhouse -x \
    -d 'ask this ClickHouse server, in place of ledgers'
complete -c tcpnewconn -n '__tcpnewconn_is report' -l host -x \
    -d 'with --clickhouse: only of this host'
complete -c tcpnewconn -n '__tcpnewconn_is report' -l login -r -F \
    -d 'with --clickhouse: user= and password= are in this file'
complete -c tcpnewconn -n '__tcpnewconn_is report' -l authority -r -F \
    -d 'with --clickhouse: trust these certificates, for https'
complete -c tcpnewconn -n '__tcpnewconn_is report' -l days -x \
    -d 'with quiet: unused for so long; default: 30'
complete -c tcpnewconn -n '__tcpnewconn_is report' -l unit -x \
    -d 'only of this unit'
complete -c tcpnewconn -n '__tcpnewconn_is report' -l user -x \
    -d 'only of this user'
complete -c tcpnewconn -n '__tcpnewconn_is report' -l process -x \
    -d 'only of this process'
complete -c tcpnewconn -n '__tcpnewconn_is report' -l container -x \
    -d 'only of this container'
complete -c tcpnewconn -n '__tcpnewconn_is report' -l port -x \
    -d 'only of this port'
complete -c tcpnewconn -n '__tcpnewconn_is report' -l network -x \
    -d 'only peers in this network'
complete -c tcpnewconn -n '__tcpnewconn_is report' -l direction -x -a 'ingress egress internal unknown' \
    -d 'only this one; filters may be repeated'
complete -c tcpnewconn -n '__tcpnewconn_is report' -l all \
    -d 'with text: every row of a long table'
complete -c tcpnewconn -n '__tcpnewconn_is report' -l resolve \
    -d 'show names of addresses, by the system\'s resolver'
complete -c tcpnewconn -n '__tcpnewconn_is report' -l mmdb -r -F \
    -d 'show country and network owner, from this MaxMind database'
