-- Who may do what: one user that may only insert, for the hosts, and one that may only read, for reports.
--
-- Replace both passwords before you run it. On a cluster, run it on every node, and add the two grants of tcpnewconn_local.

CREATE SETTINGS PROFILE IF NOT EXISTS tcpnewconn_insert SETTINGS
    max_execution_time = 60,
    -- A server gathers the inserts of many hosts into one, and answers when that is on disk.
    async_insert = 1,
    wait_for_async_insert = 1,
    async_insert_busy_timeout_max_ms = 1000,
    async_insert_max_data_size = 100000000,
    -- On a cluster: an insert is answered when it is on its shard.
    distributed_foreground_insert = 1;

CREATE USER IF NOT EXISTS tcpnewconn_insert IDENTIFIED WITH sha256_password BY 'replace this' SETTINGS PROFILE 'tcpnewconn_insert';

GRANT INSERT ON tcpnewconn.incoming TO tcpnewconn_insert;

CREATE SETTINGS PROFILE IF NOT EXISTS tcpnewconn_read SETTINGS
    readonly = 1,
    max_execution_time = 600;

CREATE USER IF NOT EXISTS tcpnewconn_read IDENTIFIED WITH sha256_password BY 'replace this too' SETTINGS PROFILE 'tcpnewconn_read';

GRANT SELECT ON tcpnewconn.* TO tcpnewconn_read;

-- On a cluster:
-- GRANT INSERT ON tcpnewconn_local.incoming TO tcpnewconn_insert;
-- GRANT SELECT ON tcpnewconn_local.* TO tcpnewconn_read;
