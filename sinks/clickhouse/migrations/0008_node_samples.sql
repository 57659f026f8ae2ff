-- Hosts and their fabric ports: the way in, one row per host per tick, one row per port per tick, and what each said last.
-- Idempotent by key, as 0007 says.

CREATE TABLE IF NOT EXISTS ${database}.node_samples_in
(
    site LowCardinality(String),
    rack LowCardinality(String),
    node LowCardinality(String),
    boot_id LowCardinality(String),
    sequence Int64,
    tick_ms Int64,
    observed_ms Int64,
    interval_ms Int32 DEFAULT 10000,
    source LowCardinality(String),
    cpu_utilization_percent Nullable(Float64),
    cpu_iowait_percent Nullable(Float64),
    cpu_steal_percent Nullable(Float64),
    cpu_count Nullable(Int64),
    cpu_temperature_celsius Nullable(Float64),
    load_1m Nullable(Float64),
    load_5m Nullable(Float64),
    load_15m Nullable(Float64),
    memory_total_bytes Nullable(Float64),
    memory_used_bytes Nullable(Float64),
    memory_available_bytes Nullable(Float64),
    swap_total_bytes Nullable(Float64),
    swap_used_bytes Nullable(Float64),
    swap_in_bytes_per_second Nullable(Float64),
    swap_out_bytes_per_second Nullable(Float64),
    cpu_pressure_some_percent Nullable(Float64),
    memory_pressure_some_percent Nullable(Float64),
    memory_pressure_full_percent Nullable(Float64),
    io_pressure_some_percent Nullable(Float64),
    io_pressure_full_percent Nullable(Float64),
    oom_kills Nullable(Int64),
    process_count Nullable(Int64),
    uptime_s Nullable(Float64),
    disks Array(Tuple(
        name String, total_bytes Nullable(Float64), used_bytes Nullable(Float64),
        read_bytes_per_second Nullable(Float64), write_bytes_per_second Nullable(Float64),
        busy_percent Nullable(Float64)
    )),
    networks Array(Tuple(
        name String, up Nullable(Bool), speed_mbps Nullable(Float64), receive_bytes_per_second Nullable(Float64),
        send_bytes_per_second Nullable(Float64), receive_errors Nullable(Int64), send_errors Nullable(Int64),
        receive_drops Nullable(Int64), send_drops Nullable(Int64)
    )),
    ports Array(Tuple(
        device String, port Int32, link_layer Nullable(String), state Nullable(String),
        physical_state Nullable(String), rate_gbps Nullable(Float64), expected_gbps Nullable(Float64),
        rate_name Nullable(String), degraded Nullable(Bool), reason String, card Nullable(String),
        guid Nullable(String), firmware Nullable(String), counters Map(String, Int64)
    )),
    CONSTRAINT time_in_future CHECK tick_ms < toUnixTimestamp64Milli(now64(3)) + 86400000,
    CONSTRAINT time_in_past CHECK tick_ms >= 946684800000
)
ENGINE = Null
COMMENT 'The way in of topic node.samples (Avro fields as they are). Keeps nothing: read node_samples and port_samples.';

-- Disks and networks stay arrays beside the readings of their host: they are asked for with it, and an array of equal
-- length compresses better than rows that repeat the host. disk_history and network_history spread them.
CREATE TABLE IF NOT EXISTS ${database}.node_samples
(
    node LowCardinality(String) COMMENT 'Node',
    tick_at DateTime64(3, 'UTC') COMMENT 'Event time: the tick, aligned to the interval' CODEC(DoubleDelta, ZSTD(1)),
    source LowCardinality(String) COMMENT 'The producer module',
    site LowCardinality(String) COMMENT 'Data hall or region',
    rack LowCardinality(String) COMMENT 'Rack',
    boot_id LowCardinality(String) COMMENT 'The node''s boot; sequence counts within it',
    sequence Int64 COMMENT 'Counts the node''s records on this topic since it booted: a gap is a loss' CODEC(DoubleDelta, ZSTD(1)),
    interval_ms UInt32 COMMENT 'The period at which the host is read' CODEC(ZSTD(1)),
    observed_at DateTime64(3, 'UTC') COMMENT 'When the agent had read everything' CODEC(Delta, ZSTD(1)),
    cpu_utilization_percent Nullable(Float64) COMMENT 'Share of processor time not idle, all processors together; NULL: not read' CODEC(ZSTD(3)),
    cpu_iowait_percent Nullable(Float64) COMMENT 'Share of processor time spent waiting for disks; NULL: not read' CODEC(ZSTD(3)),
    cpu_steal_percent Nullable(Float64) COMMENT 'Share of processor time taken by the hypervisor; NULL: not read' CODEC(ZSTD(3)),
    cpu_count Nullable(Int64) COMMENT 'Logical processors; NULL: not read' CODEC(T64, ZSTD(1)),
    cpu_temperature_celsius Nullable(Float64) COMMENT 'Hottest processor sensor; NULL: not read' CODEC(ZSTD(3)),
    load_1m Nullable(Float64) COMMENT 'Load average over 1 minute; NULL: not read' CODEC(ZSTD(3)),
    load_5m Nullable(Float64) COMMENT 'Load average over 5 minutes; NULL: not read' CODEC(ZSTD(3)),
    load_15m Nullable(Float64) COMMENT 'Load average over 15 minutes; NULL: not read' CODEC(ZSTD(3)),
    memory_total_bytes Nullable(Float64) COMMENT 'Memory of the host; NULL: not read' CODEC(ZSTD(3)),
    memory_used_bytes Nullable(Float64) COMMENT 'Memory in use; NULL: not read' CODEC(ZSTD(3)),
    memory_available_bytes Nullable(Float64) COMMENT 'Memory that programs can still get without swapping; NULL: not read' CODEC(ZSTD(3)),
    swap_total_bytes Nullable(Float64) COMMENT 'Swap space; NULL: not read' CODEC(ZSTD(3)),
    swap_used_bytes Nullable(Float64) COMMENT 'Swap in use; NULL: not read' CODEC(ZSTD(3)),
    swap_in_bytes_per_second Nullable(Float64) COMMENT 'Read back from swap; NULL: not read' CODEC(ZSTD(3)),
    swap_out_bytes_per_second Nullable(Float64) COMMENT 'Written to swap; NULL: not read' CODEC(ZSTD(3)),
    cpu_pressure_some_percent Nullable(Float64) COMMENT 'Share of the last 10 s in which some task waited for a processor (PSI); NULL: not read' CODEC(ZSTD(3)),
    memory_pressure_some_percent Nullable(Float64) COMMENT 'Share of the last 10 s in which some task waited for memory (PSI); NULL: not read' CODEC(ZSTD(3)),
    memory_pressure_full_percent Nullable(Float64) COMMENT 'Share of the last 10 s in which all tasks waited for memory (PSI); NULL: not read' CODEC(ZSTD(3)),
    io_pressure_some_percent Nullable(Float64) COMMENT 'Share of the last 10 s in which some task waited for a disk (PSI); NULL: not read' CODEC(ZSTD(3)),
    io_pressure_full_percent Nullable(Float64) COMMENT 'Share of the last 10 s in which all tasks waited for disks (PSI); NULL: not read' CODEC(ZSTD(3)),
    oom_kills Nullable(Int64) COMMENT 'Processes killed for lack of memory since boot; NULL: not read' CODEC(T64, ZSTD(1)),
    process_count Nullable(Int64) COMMENT 'Processes; NULL: not read' CODEC(T64, ZSTD(1)),
    uptime_s Nullable(Float64) COMMENT 'Seconds since the host booted; NULL: not read' CODEC(ZSTD(3)),
    disks Array(Tuple(
        name String, total_bytes Nullable(Float64), used_bytes Nullable(Float64),
        read_bytes_per_second Nullable(Float64), write_bytes_per_second Nullable(Float64),
        busy_percent Nullable(Float64)
    )) COMMENT 'Block devices and file systems' CODEC(ZSTD(3)),
    networks Array(Tuple(
        name String, up Nullable(Bool), speed_mbps Nullable(Float64), receive_bytes_per_second Nullable(Float64),
        send_bytes_per_second Nullable(Float64), receive_errors Nullable(Int64), send_errors Nullable(Int64),
        receive_drops Nullable(Int64), send_drops Nullable(Int64)
    )) COMMENT 'Network interfaces; errors and drops are running totals since boot' CODEC(ZSTD(3))
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMMDD(tick_at)
ORDER BY (node, tick_at, source)
COMMENT 'One row per host per tick: processors, memory, swap, pressure, disks, networks. NULL: not read. Rows may be there twice until merged: FINAL, or node_history.';

-- A record that tells of ports only is no reading of the host.
CREATE MATERIALIZED VIEW IF NOT EXISTS ${database}.node_samples_decode TO ${database}.node_samples AS
SELECT
    * EXCEPT (tick_ms, observed_ms, ports),
    fromUnixTimestamp64Milli(tick_ms, 'UTC') AS tick_at,
    fromUnixTimestamp64Milli(observed_ms, 'UTC') AS observed_at
FROM ${database}.node_samples_in
WHERE notEmpty(disks) OR notEmpty(networks) OR arrayExists(reading -> reading IS NOT NULL, [
    cpu_utilization_percent, cpu_iowait_percent, cpu_steal_percent, toFloat64(cpu_count), cpu_temperature_celsius,
    load_1m, load_5m, load_15m, memory_total_bytes, memory_used_bytes, memory_available_bytes, swap_total_bytes,
    swap_used_bytes, swap_in_bytes_per_second, swap_out_bytes_per_second, cpu_pressure_some_percent,
    memory_pressure_some_percent, memory_pressure_full_percent, io_pressure_some_percent, io_pressure_full_percent,
    toFloat64(oom_kills), toFloat64(process_count), uptime_s
]);

CREATE TABLE IF NOT EXISTS ${database}.port_samples
(
    node LowCardinality(String) COMMENT 'Node',
    tick_at DateTime64(3, 'UTC') COMMENT 'Event time: the tick, aligned to the interval' CODEC(DoubleDelta, ZSTD(1)),
    source LowCardinality(String) COMMENT 'The producer module',
    site LowCardinality(String) COMMENT 'Data hall or region',
    rack LowCardinality(String) COMMENT 'Rack',
    boot_id LowCardinality(String) COMMENT 'The node''s boot',
    device LowCardinality(String) COMMENT 'Device name, such as mlx5_0',
    port UInt16 COMMENT 'Port number, from 1' CODEC(ZSTD(1)),
    link_layer LowCardinality(Nullable(String)) COMMENT 'infiniband or ethernet; NULL: not read',
    state LowCardinality(Nullable(String)) COMMENT 'down, init, armed or active; NULL: not read',
    physical_state LowCardinality(Nullable(String)) COMMENT 'linkup, polling, disabled, …; NULL: not read',
    rate_gbps Nullable(Float64) COMMENT 'Rate now, gigabits per second; NULL: not read' CODEC(ZSTD(1)),
    expected_gbps Nullable(Float64) COMMENT 'What its card or its peers run at; NULL: not read' CODEC(ZSTD(1)),
    rate_name LowCardinality(Nullable(String)) COMMENT 'NDR, HDR100, …; NULL: not read',
    degraded Nullable(Bool) COMMENT 'Down, or slower than it should be; null where nothing can be said' CODEC(ZSTD(1)),
    reason String COMMENT 'One sentence about it' CODEC(ZSTD(1)),
    card LowCardinality(Nullable(String)) COMMENT 'Product name of the card; NULL: not read',
    guid Nullable(String) COMMENT 'GUID of the port or card; NULL: not read' CODEC(ZSTD(1)),
    firmware LowCardinality(Nullable(String)) COMMENT 'Firmware of the card; NULL: not read',
    counters Map(LowCardinality(String), Int64) COMMENT 'Every counter that could be read, by its name in sysfs; running totals' CODEC(ZSTD(1))
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMMDD(tick_at)
ORDER BY (node, device, port, tick_at, source)
COMMENT 'One row per InfiniBand or RoCE port per tick: state, rate beside what it should be, every counter (running totals). NULL: not read. Rows may be there twice until merged: FINAL, or port_history.';

CREATE MATERIALIZED VIEW IF NOT EXISTS ${database}.port_samples_decode TO ${database}.port_samples AS
SELECT
    node,
    fromUnixTimestamp64Milli(tick_ms, 'UTC') AS tick_at,
    source,
    site,
    rack,
    boot_id,
    tupleElement(one, 'device') AS device,
    tupleElement(one, 'port') AS port,
    tupleElement(one, 'link_layer') AS link_layer,
    tupleElement(one, 'state') AS state,
    tupleElement(one, 'physical_state') AS physical_state,
    tupleElement(one, 'rate_gbps') AS rate_gbps,
    tupleElement(one, 'expected_gbps') AS expected_gbps,
    tupleElement(one, 'rate_name') AS rate_name,
    tupleElement(one, 'degraded') AS degraded,
    tupleElement(one, 'reason') AS reason,
    tupleElement(one, 'card') AS card,
    tupleElement(one, 'guid') AS guid,
    tupleElement(one, 'firmware') AS firmware,
    tupleElement(one, 'counters') AS counters
FROM ${database}.node_samples_in
ARRAY JOIN ports AS one;

-- What each host and each port said last, for node_now: small, whatever the length of the history.
CREATE TABLE IF NOT EXISTS ${database}.host_last
(
    node String COMMENT 'Node',
    tick_at DateTime64(3, 'UTC') COMMENT 'Its last tick',
    site LowCardinality(String) COMMENT 'Data hall or region',
    rack LowCardinality(String) COMMENT 'Rack',
    cpu_utilization_percent Nullable(Float64) COMMENT 'Share of processor time not idle, all processors together',
    cpu_iowait_percent Nullable(Float64) COMMENT 'Share of processor time spent waiting for disks',
    cpu_count Nullable(Int64) COMMENT 'Logical processors',
    cpu_temperature_celsius Nullable(Float64) COMMENT 'Hottest processor sensor',
    load_1m Nullable(Float64) COMMENT 'Load average over 1 minute',
    memory_total_bytes Nullable(Float64) COMMENT 'Memory of the host',
    memory_used_bytes Nullable(Float64) COMMENT 'Memory in use',
    memory_available_bytes Nullable(Float64) COMMENT 'Memory that programs can still get without swapping',
    swap_total_bytes Nullable(Float64) COMMENT 'Swap space',
    swap_used_bytes Nullable(Float64) COMMENT 'Swap in use',
    memory_pressure_full_percent Nullable(Float64) COMMENT 'Share of the last 10 s in which all tasks waited for memory (PSI)',
    io_pressure_full_percent Nullable(Float64) COMMENT 'Share of the last 10 s in which all tasks waited for disks (PSI)',
    oom_kills Nullable(Int64) COMMENT 'Processes killed for lack of memory since boot',
    uptime_s Nullable(Float64) COMMENT 'Seconds since the host booted',
    disk_used_percent Nullable(Float64) COMMENT 'Of the fullest file system'
)
ENGINE = ReplacingMergeTree(tick_at)
ORDER BY node
COMMENT 'The last reading of each host; read node_now.';

CREATE MATERIALIZED VIEW IF NOT EXISTS ${database}.host_last_decode TO ${database}.host_last AS
SELECT
    node,
    fromUnixTimestamp64Milli(tick_ms, 'UTC') AS tick_at,
    site,
    rack,
    cpu_utilization_percent,
    cpu_iowait_percent,
    cpu_count,
    cpu_temperature_celsius,
    load_1m,
    memory_total_bytes,
    memory_used_bytes,
    memory_available_bytes,
    swap_total_bytes,
    swap_used_bytes,
    memory_pressure_full_percent,
    io_pressure_full_percent,
    oom_kills,
    uptime_s,
    nullIf(
        arrayMax(arrayPushBack(
            arrayMap(disk -> ifNull(100 * disk.used_bytes / nullIf(disk.total_bytes, 0), -1), disks),
            -1
        )),
        -1
    ) AS disk_used_percent
FROM ${database}.node_samples_in
WHERE cpu_utilization_percent IS NOT NULL OR memory_total_bytes IS NOT NULL;

CREATE TABLE IF NOT EXISTS ${database}.port_last
(
    node String COMMENT 'Node',
    device String COMMENT 'Device name, such as mlx5_0',
    port UInt16 COMMENT 'Port number, from 1',
    tick_at DateTime64(3, 'UTC') COMMENT 'Its last tick',
    state LowCardinality(Nullable(String)) COMMENT 'down, init, armed or active',
    rate_gbps Nullable(Float64) COMMENT 'Rate now, gigabits per second',
    expected_gbps Nullable(Float64) COMMENT 'What its card or its peers run at',
    degraded Nullable(Bool) COMMENT 'Down, or slower than it should be; NULL where nothing can be said',
    reason String COMMENT 'One sentence about it'
)
ENGINE = ReplacingMergeTree(tick_at)
ORDER BY (node, device, port)
COMMENT 'What each port said last; read node_now.';

CREATE MATERIALIZED VIEW IF NOT EXISTS ${database}.port_last_decode TO ${database}.port_last AS
SELECT
    node,
    tupleElement(one, 'device') AS device,
    tupleElement(one, 'port') AS port,
    fromUnixTimestamp64Milli(tick_ms, 'UTC') AS tick_at,
    tupleElement(one, 'state') AS state,
    tupleElement(one, 'rate_gbps') AS rate_gbps,
    tupleElement(one, 'expected_gbps') AS expected_gbps,
    tupleElement(one, 'degraded') AS degraded,
    tupleElement(one, 'reason') AS reason
FROM ${database}.node_samples_in
ARRAY JOIN ports AS one;
