-- Events of any number of hosts in ClickHouse, on one node. cluster.sql makes the same on shards and replicas, users.sql the users.
-- docs/clickhouse.md says why it is so.
--
--     clickhouse-client --multiquery <schema.sql
--
-- A row that is delivered twice changes nothing: every table keeps the greatest or least value, or replaces equal rows.

CREATE DATABASE IF NOT EXISTS tcpnewconn;

-- The door: one JSON object of the contract (docs/events.md) per row. It keeps nothing; views take from it.
CREATE TABLE IF NOT EXISTS tcpnewconn.incoming (event String) ENGINE = Null;

-- Connections opened, closed and failed, and summaries: one row each. An id is `place`-`number`; of an event without one the
-- number is a hash of the event. Of a name that is not known the value is empty, of a number 0, of an address ::.
CREATE TABLE IF NOT EXISTS tcpnewconn.events
(
    host LowCardinality(String),
    hour DateTime('UTC') CODEC(Delta, ZSTD(1)),
    action LowCardinality(String),
    direction LowCardinality(String),
    destination_port UInt16 CODEC(ZSTD(1)),
    unit LowCardinality(String),
    process LowCardinality(String),
    user LowCardinality(String),
    container LowCardinality(String),
    accepted_by LowCardinality(String),
    source IPv6 CODEC(ZSTD(1)),
    destination IPv6 CODEC(ZSTD(1)),
    time DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    source_port UInt16 CODEC(ZSTD(1)),
    place LowCardinality(String),
    number UInt64 CODEC(Delta, ZSTD(1)),
    accepted_by_process LowCardinality(String),
    accepted_by_container LowCardinality(String),
    runtime LowCardinality(String),
    pod LowCardinality(String),
    netns UInt64 CODEC(ZSTD(1)),
    pid UInt32 CODEC(ZSTD(1)),
    thread UInt32 CODEC(ZSTD(1)),
    thread_name LowCardinality(String),
    attributed_by LowCardinality(String),
    detected_by LowCardinality(String),
    state LowCardinality(String),
    error LowCardinality(String),
    count UInt64 CODEC(ZSTD(1)),
    top_sources Array(Tuple(address IPv6, count UInt64)) CODEC(ZSTD(1)),
    source_bytes UInt64 CODEC(ZSTD(1)),
    destination_bytes UInt64 CODEC(ZSTD(1)),
    duration UInt64 CODEC(ZSTD(1)),
    rtt UInt32 CODEC(ZSTD(1)),
    retransmits UInt32 CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toDate(hour)
PRIMARY KEY (host, hour)
ORDER BY (host, hour, action, direction, destination_port, unit, process, user, source, destination, time, place, number)
TTL hour + INTERVAL 90 DAY
SETTINGS ttl_only_drop_parts = 1;

-- The rest, whole, as it came: when the service observed, losses, listeners, port scans; and lines that are no event, which have
-- no host, at the time when they came.
CREATE TABLE IF NOT EXISTS tcpnewconn.notices
(
    host LowCardinality(String),
    action LowCardinality(String),
    time DateTime64(6, 'UTC') CODEC(Delta, ZSTD(1)),
    event String CODEC(ZSTD(3))
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(time)
PRIMARY KEY (host, action, time)
ORDER BY (host, action, time, event)
TTL toDateTime(time) + INTERVAL 400 DAY
SETTINGS ttl_only_drop_parts = 1;

-- Of each host and hour: its first and its last event, and when the newest came in.
CREATE TABLE IF NOT EXISTS tcpnewconn.hours
(
    host LowCardinality(String),
    hour DateTime('UTC'),
    first SimpleAggregateFunction(min, DateTime64(6, 'UTC')),
    last SimpleAggregateFunction(max, DateTime64(6, 'UTC')),
    received SimpleAggregateFunction(max, DateTime('UTC'))
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(hour)
ORDER BY (host, hour)
TTL hour + INTERVAL 400 DAY
SETTINGS ttl_only_drop_parts = 1;

-- The addresses of each host, from the local end of its connections.
CREATE TABLE IF NOT EXISTS tcpnewconn.addresses
(
    host LowCardinality(String),
    address IPv6,
    last SimpleAggregateFunction(max, DateTime('UTC'))
)
ENGINE = AggregatingMergeTree
ORDER BY (host, address)
TTL last + INTERVAL 400 DAY;

-- An edge: a service of a host and one of its peers, hour by hour. :: is peers that summaries do not name.
CREATE TABLE IF NOT EXISTS tcpnewconn.edges
(
    host LowCardinality(String),
    hour DateTime('UTC') CODEC(Delta, ZSTD(1)),
    direction LowCardinality(String),
    port UInt16 CODEC(ZSTD(1)),
    local_port UInt16 CODEC(ZSTD(1)),
    unit LowCardinality(String),
    process LowCardinality(String),
    user LowCardinality(String),
    container LowCardinality(String),
    accepted_by LowCardinality(String),
    peer IPv6 CODEC(ZSTD(1)),
    connections UInt64 CODEC(T64, ZSTD(1)),
    summarized UInt64 CODEC(T64, ZSTD(1)),
    failed UInt64 CODEC(T64, ZSTD(1)),
    source_bytes UInt64 CODEC(T64, ZSTD(1)),
    destination_bytes UInt64 CODEC(T64, ZSTD(1)),
    first UInt16 COMMENT 'second of the hour' CODEC(ZSTD(1)),
    last UInt16 COMMENT 'second of the hour' CODEC(ZSTD(1)),
    version DateTime('UTC') CODEC(Delta, ZSTD(1))
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(hour)
PRIMARY KEY (host, direction, port)
ORDER BY (host, direction, port, local_port, unit, process, user, container, accepted_by, peer, hour)
TTL hour + INTERVAL 400 DAY
SETTINGS ttl_only_drop_parts = 1;

-- The times of the refreshes below.
CREATE TABLE IF NOT EXISTS tcpnewconn.refreshes (version DateTime('UTC'))
ENGINE = ReplacingMergeTree ORDER BY version TTL version + INTERVAL 7 DAY;

CREATE MATERIALIZED VIEW IF NOT EXISTS tcpnewconn.incoming_to_events TO tcpnewconn.events AS
WITH
    JSONExtract(event, 'Tuple(
        `@timestamp` String, `host.name` String, `event.action` String, `network.direction` String,
        `source.address` String, `source.port` UInt16, `destination.address` String, `destination.port` UInt16,
        `object.systemd_unit` String, `object.systemd_user_unit` String, `process.name` String, `process.pid` UInt32,
        `process.thread.id` UInt32, `process.thread.name` String, `user.id` String, `user.name` String,
        `container.id` String, `container.name` String, `container.runtime` String, `k8s.pod.uid` String, `tcpnewconn.netns` UInt64,
        `network.connection.state` String, `error.code` String, `source.bytes` UInt64, `destination.bytes` UInt64,
        `event.duration` UInt64, `tcpnewconn.connection_id` String, `tcpnewconn.detected_by` String,
        `tcpnewconn.attributed_by` Array(String), `tcpnewconn.accepted_by_unit` String,
        `tcpnewconn.accepted_by_process` String, `tcpnewconn.accepted_by_container` String, `tcpnewconn.count` UInt64,
        `tcpnewconn.top_sources` Array(Tuple(address String, count UInt64)), `tcpnewconn.rtt_usec` UInt32,
        `tcpnewconn.retransmits` UInt32)') AS e,
    tupleElement(e, 'event.action') AS action_,
    parseDateTime64BestEffortOrZero(tupleElement(e, '@timestamp'), 6, 'UTC') AS time_,
    tupleElement(e, 'tcpnewconn.connection_id') AS id_,
    match(id_, '-r?[0-9a-f]{1,15}$') AS numbered,
    splitByChar('-', id_) AS parts
SELECT
    tupleElement(e, 'host.name') AS host,
    toStartOfHour(toDateTime(time_, 'UTC')) AS hour,
    action_ AS action,
    if(tupleElement(e, 'network.direction') = '', 'unknown', tupleElement(e, 'network.direction')) AS direction,
    tupleElement(e, 'destination.port') AS destination_port,
    if(tupleElement(e, 'object.systemd_user_unit') != '', tupleElement(e, 'object.systemd_user_unit'), tupleElement(e, 'object.systemd_unit')) AS unit,
    tupleElement(e, 'process.name') AS process,
    if(tupleElement(e, 'user.name') != '', tupleElement(e, 'user.name'), tupleElement(e, 'user.id')) AS user,
    if(tupleElement(e, 'container.name') != '', tupleElement(e, 'container.name'), tupleElement(e, 'container.id')) AS container,
    tupleElement(e, 'tcpnewconn.accepted_by_unit') AS accepted_by,
    toIPv6OrDefault(tupleElement(e, 'source.address')) AS source,
    toIPv6OrDefault(tupleElement(e, 'destination.address')) AS destination,
    time_ AS time,
    tupleElement(e, 'source.port') AS source_port,
    if(numbered, arrayStringConcat(arrayPopBack(parts), '-') || if(startsWith(parts[-1], 'r'), '-r', ''), id_) AS place,
    multiIf(
        numbered, reinterpretAsUInt64(reverse(unhex(leftPad(trimLeft(parts[-1], 'r'), 16, '0')))),
        id_ = '', cityHash64(event),
        0) AS number,
    tupleElement(e, 'tcpnewconn.accepted_by_process') AS accepted_by_process,
    tupleElement(e, 'tcpnewconn.accepted_by_container') AS accepted_by_container,
    tupleElement(e, 'container.runtime') AS runtime,
    tupleElement(e, 'k8s.pod.uid') AS pod,
    tupleElement(e, 'tcpnewconn.netns') AS netns,
    tupleElement(e, 'process.pid') AS pid,
    tupleElement(e, 'process.thread.id') AS thread,
    tupleElement(e, 'process.thread.name') AS thread_name,
    arrayStringConcat(tupleElement(e, 'tcpnewconn.attributed_by'), ',') AS attributed_by,
    tupleElement(e, 'tcpnewconn.detected_by') AS detected_by,
    tupleElement(e, 'network.connection.state') AS state,
    tupleElement(e, 'error.code') AS error,
    tupleElement(e, 'tcpnewconn.count') AS count,
    arrayMap(x -> (toIPv6OrDefault(x.1), x.2), tupleElement(e, 'tcpnewconn.top_sources')) AS top_sources,
    tupleElement(e, 'source.bytes') AS source_bytes,
    tupleElement(e, 'destination.bytes') AS destination_bytes,
    tupleElement(e, 'event.duration') AS duration,
    tupleElement(e, 'tcpnewconn.rtt_usec') AS rtt,
    tupleElement(e, 'tcpnewconn.retransmits') AS retransmits
FROM tcpnewconn.incoming
WHERE action_ IN ('connection-opened', 'connection-closed', 'connection-failed', 'connections-summarized') AND host != '' AND time_ > 0;

CREATE MATERIALIZED VIEW IF NOT EXISTS tcpnewconn.incoming_to_notices TO tcpnewconn.notices AS
WITH parseDateTime64BestEffortOrZero(JSONExtractString(event, '@timestamp'), 6, 'UTC') AS time_
SELECT
    JSONExtractString(event, 'host.name') AS host,
    JSONExtractString(event, 'event.action') AS action,
    if(time_ > 0, time_, now64(6, 'UTC')) AS time,
    event
FROM tcpnewconn.incoming
WHERE NOT (action IN ('connection-opened', 'connection-closed', 'connection-failed', 'connections-summarized') AND host != '' AND time_ > 0);

CREATE MATERIALIZED VIEW IF NOT EXISTS tcpnewconn.events_to_hours TO tcpnewconn.hours AS
SELECT host, hour, min(time) AS first, max(time) AS last, now('UTC') AS received
FROM tcpnewconn.events GROUP BY host, hour;

CREATE MATERIALIZED VIEW IF NOT EXISTS tcpnewconn.notices_to_hours TO tcpnewconn.hours AS
SELECT host, toStartOfHour(toDateTime(time, 'UTC')) AS hour, min(time) AS first, max(time) AS last, now('UTC') AS received
FROM tcpnewconn.notices WHERE host != '' GROUP BY host, hour;

CREATE MATERIALIZED VIEW IF NOT EXISTS tcpnewconn.events_to_addresses TO tcpnewconn.addresses AS
SELECT host, if(direction = 'ingress', destination, source) AS address, max(toDateTime(time, 'UTC')) AS last
FROM tcpnewconn.events WHERE direction != 'internal' AND address != toIPv6('::') GROUP BY host, address;

-- Hours whose edges are not counted, or may have changed. The last refresh may be at work yet: those since the one before
-- it, and five minutes for an insert that was under way then. What comes late can be the first of what the next hour repeats.
-- Never one whose events may have gone: its edges stay as they were.
CREATE VIEW IF NOT EXISTS tcpnewconn.pending AS
SELECT DISTINCT host, arrayJoin([hour, hour + INTERVAL 1 HOUR]) AS hour
FROM tcpnewconn.hours
WHERE toUnixTimestamp(received) + 300 >= ifNull(
    (SELECT toUnixTimestamp(version) FROM (SELECT DISTINCT version FROM tcpnewconn.refreshes ORDER BY version DESC LIMIT 2) LIMIT 1 OFFSET 1), 0)
    AND hour > now('UTC') - INTERVAL 88 DAY;

-- The service logs first and saves its state after that. Killed in between, it logs the same connections again after its
-- start, with the same ids: those of the ten minutes after a start that were logged around the end of the observation before.
CREATE VIEW IF NOT EXISTS tcpnewconn.logged_again AS
SELECT host, action, place, number, arrayJoin(again) AS time
FROM
(
    SELECT
        events.host AS host, events.action AS action, events.place AS place, events.number AS number,
        groupArrayIf(events.time, events.time >= started AND events.time < started + INTERVAL 10 MINUTE) AS again,
        countIf(events.time < started AND events.time >= until - INTERVAL 10 MINUTE AND events.time < until + INTERVAL 10 MINUTE) AS before
    FROM tcpnewconn.events AS events
    INNER JOIN
    (
        SELECT
            host, time AS started,
            if(observed_until > 0, observed_until, time) AS until,
            parseDateTime64BestEffortOrZero(JSONExtractString(event, 'tcpnewconn.observed_until'), 6, 'UTC') AS observed_until
        FROM tcpnewconn.notices
        WHERE action = 'observation-started' AND (host, toStartOfHour(toDateTime(time, 'UTC'))) IN (
            SELECT host, arrayJoin([hour, hour - INTERVAL 1 HOUR]) FROM tcpnewconn.pending)
    ) AS starts ON events.host = starts.host
    WHERE (events.host, events.hour) IN
    (
        SELECT host, arrayJoin([
            toStartOfHour(toDateTime(time, 'UTC')), toStartOfHour(toDateTime(time + INTERVAL 10 MINUTE, 'UTC')),
            toStartOfHour(toDateTime(if(observed_until > 0, observed_until, time) - INTERVAL 10 MINUTE, 'UTC')),
            toStartOfHour(toDateTime(if(observed_until > 0, observed_until, time) + INTERVAL 10 MINUTE, 'UTC'))])
        FROM
        (
            SELECT host, time, parseDateTime64BestEffortOrZero(JSONExtractString(event, 'tcpnewconn.observed_until'), 6, 'UTC') AS observed_until
            FROM tcpnewconn.notices
            WHERE action = 'observation-started' AND (host, toStartOfHour(toDateTime(time, 'UTC'))) IN (
                SELECT host, arrayJoin([hour, hour - INTERVAL 1 HOUR]) FROM tcpnewconn.pending)
        )
    )
    AND events.place != ''
    GROUP BY events.host, started, until, events.action, events.place, events.number
    HAVING before > 0 AND notEmpty(again)
);

-- The edges of the pending hours, from the events: of equal rows one (FINAL), and nothing that was logged again. An edge of
-- nothing else begins after its hour, at second 3600: it replaces one that was counted before that was known.
CREATE VIEW IF NOT EXISTS tcpnewconn.edges_from_events AS
SELECT
    host, hour, direction, port, local_port, unit, process, user, container, accepted_by, peer,
    sum(c) AS connections, sum(s) AS summarized, sum(f) AS failed, sum(sb) AS source_bytes, sum(db) AS destination_bytes,
    if(sum(n) = 0, toUInt16(3600), toUInt16(minIf(t1, n > 0) - toUnixTimestamp(hour))) AS first,
    if(sum(n) = 0, toUInt16(3600), toUInt16(maxIf(t2, n > 0) - toUnixTimestamp(hour))) AS last
FROM
(
    WITH (host, action, place, number, time) IN (SELECT host, action, place, number, time FROM tcpnewconn.logged_again) AS again
    SELECT
        host, hour, direction, destination_port AS port, if(direction = 'unknown', source_port, 0) AS local_port,
        unit, process, user, container, accepted_by, if(direction = 'ingress', source, destination) AS peer,
        countIf(NOT again) AS n, countIf(action = 'connection-opened' AND NOT again) AS c, toUInt64(0) AS s,
        sumIf(greatest(count, 1), action = 'connection-failed' AND NOT again) AS f,
        sumIf(source_bytes, NOT again) AS sb, sumIf(destination_bytes, NOT again) AS db,
        minIf(toUnixTimestamp(time), NOT again) AS t1, maxIf(toUnixTimestamp(time), NOT again) AS t2
    FROM tcpnewconn.events FINAL
    WHERE action != 'connections-summarized' AND (host, hour) IN (SELECT host, hour FROM tcpnewconn.pending)
    GROUP BY host, hour, direction, port, local_port, unit, process, user, container, accepted_by, peer
    UNION ALL
    SELECT
        host, hour, direction, port, local_port, unit, process, user, container, accepted_by, tupleElement(part, 1) AS peer,
        count() AS n, toUInt64(0) AS c, sum(tupleElement(part, 2)) AS s, toUInt64(0) AS f, toUInt64(0) AS sb, toUInt64(0) AS db,
        min(toUnixTimestamp(time)) AS t1, max(toUnixTimestamp(time)) AS t2
    FROM
    (
        SELECT
            host, hour, direction, destination_port AS port, if(direction = 'unknown', source_port, 0) AS local_port,
            unit, process, user, container, accepted_by, time,
            if(direction = 'ingress', source, destination) AS known,
            if(direction = 'ingress' AND known = toIPv6('::'), top_sources, []) AS named,
            arrayPushBack(named, (known, toUInt64(greatest(0, toInt64(count) - toInt64(arraySum(x -> x.2, named)))))) AS parts
        FROM tcpnewconn.events FINAL
        WHERE action = 'connections-summarized' AND (host, hour) IN (SELECT host, hour FROM tcpnewconn.pending)
    )
    ARRAY JOIN parts AS part
    WHERE tupleElement(part, 2) > 0
    GROUP BY host, hour, direction, port, local_port, unit, process, user, container, accepted_by, peer
)
GROUP BY host, hour, direction, port, local_port, unit, process, user, container, accepted_by, peer;

-- Every ten minutes the pending hours are counted again, whole. They are read from here until then.
CREATE MATERIALIZED VIEW IF NOT EXISTS tcpnewconn.edges_refresh REFRESH EVERY 10 MINUTE APPEND TO tcpnewconn.edges AS
SELECT *, now('UTC') AS version FROM tcpnewconn.edges_from_events;

CREATE MATERIALIZED VIEW IF NOT EXISTS tcpnewconn.edges_to_refreshes TO tcpnewconn.refreshes AS
SELECT DISTINCT version FROM tcpnewconn.edges;

-- All edges, as of now. Readers ask this.
CREATE VIEW IF NOT EXISTS tcpnewconn.edges_now AS
SELECT
    host, hour, direction, port, local_port, unit, process, user, container, accepted_by, peer,
    connections, summarized, failed, source_bytes, destination_bytes, first, last
FROM tcpnewconn.edges FINAL
WHERE (host, hour) NOT IN (SELECT host, hour FROM tcpnewconn.pending) AND first < 3600
UNION ALL
SELECT
    host, hour, direction, port, local_port, unit, process, user, container, accepted_by, peer,
    connections, summarized, failed, source_bytes, destination_bytes, first, last
FROM tcpnewconn.edges_from_events
WHERE first < 3600;
