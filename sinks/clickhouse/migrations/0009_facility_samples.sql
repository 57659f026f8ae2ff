-- Around the nodes (PDUs, cooling, meters, management controllers): the way in, and one row per device, point and tick.
-- Idempotent by key, as 0007 says.

CREATE TABLE IF NOT EXISTS ${database}.facility_samples_in
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
    device String,
    device_kind LowCardinality(String),
    of_node Nullable(String),
    points Array(Tuple(name String, unit String, value Nullable(Float64), state Nullable(String))),
    CONSTRAINT time_in_future CHECK tick_ms < toUnixTimestamp64Milli(now64(3)) + 86400000,
    CONSTRAINT time_in_past CHECK tick_ms >= 946684800000
)
ENGINE = Null
COMMENT 'The way in of topic facility.samples (Avro fields as they are). Keeps nothing: read facility_points.';

-- By the hour first, so that `now` reads the last hour only (ask for toStartOfHour(tick_at), too); then by point, whose
-- neighbouring values compress well.
-- Two nodes that read the same device are both kept: the node is part of the key.
CREATE TABLE IF NOT EXISTS ${database}.facility_points
(
    device String COMMENT 'Component id: pdu:NAME, cooling:NAME, meter:NAME, bmc:NODE' CODEC(ZSTD(3)),
    point LowCardinality(String) COMMENT 'What is measured, with its place where there are several: power_watts/phase_1, fan_speed_rpm/fan_3',
    tick_at DateTime64(3, 'UTC') COMMENT 'Event time: the tick, aligned to the interval' CODEC(DoubleDelta, ZSTD(1)),
    value Nullable(Float64) COMMENT 'The value in that unit; NULL: not read, or a state only' CODEC(ZSTD(1)),
    unit LowCardinality(String) COMMENT 'Unit, in words; empty for a state',
    state LowCardinality(Nullable(String)) COMMENT 'ok, warning, critical, absent or the device''s own word; NULL where there is none',
    device_kind LowCardinality(String) COMMENT 'pdu, cooling, meter or bmc',
    of_node LowCardinality(Nullable(String)) COMMENT 'The node whose management controller it is',
    source LowCardinality(String) COMMENT 'modbus, redfish or ipmitool: how it was read',
    site LowCardinality(String) COMMENT 'Data hall or region',
    rack LowCardinality(String) COMMENT 'Rack',
    node LowCardinality(String) COMMENT 'Node whose agent read it'
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMMDD(tick_at)
ORDER BY (toStartOfHour(tick_at), device, point, tick_at, node)
COMMENT 'One row per device, point and tick. NULL: not read. Rows may be there twice until merged: FINAL, or facility_history.';

CREATE MATERIALIZED VIEW IF NOT EXISTS ${database}.facility_samples_decode TO ${database}.facility_points AS
SELECT
    device,
    tupleElement(one, 'name') AS point,
    fromUnixTimestamp64Milli(tick_ms, 'UTC') AS tick_at,
    tupleElement(one, 'value') AS value,
    tupleElement(one, 'unit') AS unit,
    tupleElement(one, 'state') AS state,
    device_kind,
    of_node,
    source,
    site,
    rack,
    node
FROM ${database}.facility_samples_in
ARRAY JOIN points AS one;
