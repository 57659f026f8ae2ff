-- Hardware events and what the detectors found.
-- These tables are idempotent: a row's key is what it is, so a second delivery replaces the first. Rows wait for a merge
-- until then, so read the views (hardware_events, anomalies), which show each once.

CREATE TABLE IF NOT EXISTS ${database}.hardware_events_in
(
    event_id String,
    site LowCardinality(String),
    rack LowCardinality(String),
    node LowCardinality(String),
    boot_id LowCardinality(String),
    sequence Int64,
    event_ms Int64,
    observed_ms Int64,
    source LowCardinality(String),
    kind LowCardinality(String),
    code Nullable(Int32),
    gpu Nullable(String),
    pci Nullable(String),
    link Nullable(Int32),
    severity LowCardinality(String),
    action LowCardinality(String) DEFAULT 'none',
    count Int64 DEFAULT 1,
    details Map(String, String),
    raw String,
    last_raw Nullable(String),
    CONSTRAINT time_in_future CHECK event_ms < toUnixTimestamp64Milli(now64(3)) + 86400000,
    CONSTRAINT time_in_past CHECK event_ms >= 946684800000
)
ENGINE = Null
COMMENT 'The way in of topic hardware.events (Avro fields as they are). Keeps nothing: read hardware_events.';

CREATE TABLE IF NOT EXISTS ${database}.hardware_event_log
(
    event_id String COMMENT 'A hash of what it is (node, boot, source cursor): a second delivery is the same event',
    event_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)) COMMENT 'Event time',
    observed_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)) COMMENT 'When the agent saw it',
    site LowCardinality(String) COMMENT 'Data hall or region',
    rack LowCardinality(String) COMMENT 'Rack',
    node LowCardinality(String) COMMENT 'Node',
    boot_id LowCardinality(String) COMMENT 'The node''s boot',
    sequence Int64 COMMENT 'Counts the producer''s records of this topic since the boot',
    source LowCardinality(String) COMMENT 'kernel_log, nvml, agent, …: the producer module',
    kind LowCardinality(String) COMMENT 'xid, sxid, fallen_off_bus, gpu_lost, link_flap, …: schemas/catalog/events.toml',
    code Nullable(Int32) COMMENT 'The XID or SXid',
    gpu Nullable(String) COMMENT 'Serial (or UUID) of the GPU, where known to the producer',
    pci Nullable(String) COMMENT 'PCI address, 0000:91:00',
    link Nullable(Int32) COMMENT 'NVLink or port number, where the event names one',
    severity LowCardinality(String) COMMENT 'info, warning or critical, by the catalogue',
    action LowCardinality(String) COMMENT 'The recommended action, by the catalogue',
    count Int64 COMMENT 'How many occurrences the row stands for',
    details Map(String, String) COMMENT 'What else the decoder understood',
    raw String CODEC(ZSTD(3)) COMMENT 'The raw text, first occurrence',
    last_raw Nullable(String) CODEC(ZSTD(3)) COMMENT 'The raw text of the last occurrence, where count > 1'
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(event_at)
ORDER BY (node, event_at, event_id)
COMMENT 'Hardware events as delivered; read hardware_events.';

CREATE MATERIALIZED VIEW IF NOT EXISTS ${database}.hardware_events_decode TO ${database}.hardware_event_log AS
SELECT
    * EXCEPT (event_ms, observed_ms),
    fromUnixTimestamp64Milli(event_ms, 'UTC') AS event_at,
    fromUnixTimestamp64Milli(observed_ms, 'UTC') AS observed_at
FROM ${database}.hardware_events_in;

CREATE TABLE IF NOT EXISTS ${database}.fleet_anomalies_in
(
    anomaly_id String,
    site LowCardinality(String),
    rack LowCardinality(String),
    node Nullable(String),
    gpu Nullable(String),
    component String,
    detector LowCardinality(String),
    rule LowCardinality(String),
    metric Nullable(String),
    fault_class LowCardinality(String),
    state LowCardinality(String),
    severity LowCardinality(String),
    action LowCardinality(String) DEFAULT 'none',
    value Nullable(Float64),
    `limit` Nullable(Float64),
    begin_ms Int64,
    tick_ms Int64,
    reason String
)
ENGINE = Null
COMMENT 'The way in of topic fleet.anomalies (Avro fields as they are). Keeps nothing: read anomalies.';

CREATE TABLE IF NOT EXISTS ${database}.anomaly_log
(
    anomaly_id String COMMENT 'A hash of detector, metric, component and begin; raised and cleared share it',
    state LowCardinality(String) COMMENT 'raised or cleared',
    begin_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)) COMMENT 'When the condition began, event time',
    tick_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)) COMMENT 'The tick at which it was decided, event time',
    site LowCardinality(String) COMMENT 'Data hall or region',
    rack LowCardinality(String) COMMENT 'Rack',
    node LowCardinality(Nullable(String)) COMMENT 'Node',
    gpu Nullable(String) COMMENT 'Serial (or UUID) of the GPU',
    component String COMMENT 'The component it is about, gpu:SERIAL, node:NAME, …',
    detector LowCardinality(String) COMMENT 'threshold, silence, …',
    rule LowCardinality(String) COMMENT 'The rule''s name in the catalogue',
    metric LowCardinality(Nullable(String)) COMMENT 'The metric, where it is about one',
    fault_class LowCardinality(String) COMMENT 'The fault class it is evidence for',
    severity LowCardinality(String) COMMENT 'info, warning or critical',
    action LowCardinality(String) COMMENT 'The recommended action, by the rule',
    value Nullable(Float64) COMMENT 'The value that decided',
    `limit` Nullable(Float64) COMMENT 'The limit it was held against',
    reason String CODEC(ZSTD(3)) COMMENT 'One sentence for a human'
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(begin_at)
ORDER BY (component, begin_at, anomaly_id, state)
COMMENT 'Detector findings as delivered; read anomalies.';

CREATE MATERIALIZED VIEW IF NOT EXISTS ${database}.fleet_anomalies_decode TO ${database}.anomaly_log AS
SELECT
    * EXCEPT (begin_ms, tick_ms),
    fromUnixTimestamp64Milli(begin_ms, 'UTC') AS begin_at,
    fromUnixTimestamp64Milli(tick_ms, 'UTC') AS tick_at
FROM ${database}.fleet_anomalies_in;
