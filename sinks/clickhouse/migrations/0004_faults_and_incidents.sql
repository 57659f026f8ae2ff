-- Faults and incidents: every revision is kept, its key is (id, revision), so a second delivery replaces the first.

CREATE TABLE IF NOT EXISTS ${database}.fleet_faults_in
(
    fault_id String,
    revision Int32,
    state LowCardinality(String),
    site LowCardinality(String),
    rack LowCardinality(String),
    node Nullable(String),
    gpu Nullable(String),
    pci Nullable(String),
    component String,
    component_kind LowCardinality(String),
    fault_class LowCardinality(String),
    code Nullable(Int32),
    severity LowCardinality(String),
    action LowCardinality(String),
    rule LowCardinality(String),
    reason String,
    first_ms Int64,
    last_ms Int64,
    cleared_ms Nullable(Int64),
    count Int64,
    evidence Array(Tuple(id String, at_ms Int64, source String, text String)),
    observed_ms Int64
)
ENGINE = Null
COMMENT 'The way in of topic fleet.faults (Avro fields as they are). Keeps nothing: read fault_history.';

CREATE TABLE IF NOT EXISTS ${database}.fault_revisions
(
    fault_id String COMMENT 'A hash of component, class and the first evidence',
    revision Int32 COMMENT 'Grows with every record of this fault',
    state LowCardinality(String) COMMENT 'open, updated or cleared',
    site LowCardinality(String) COMMENT 'Data hall or region',
    rack LowCardinality(String) COMMENT 'Rack',
    node LowCardinality(Nullable(String)) COMMENT 'Node',
    gpu Nullable(String) COMMENT 'Serial (or UUID) of the GPU',
    pci Nullable(String) COMMENT 'PCI address',
    component String COMMENT 'Component id, gpu:SERIAL, node:NAME, …',
    component_kind LowCardinality(String) COMMENT 'gpu, node, link, nvswitch, …',
    fault_class LowCardinality(String) COMMENT 'schemas/catalog/faults.toml lists them',
    code Nullable(Int32) COMMENT 'XID or SXid of the deciding evidence',
    severity LowCardinality(String) COMMENT 'info, warning or critical',
    action LowCardinality(String) COMMENT 'The recommended action',
    rule LowCardinality(String) COMMENT 'The catalogue entry that chose severity and action',
    reason String CODEC(ZSTD(3)) COMMENT 'One sentence for a human',
    first_at DateTime64(3, 'UTC') COMMENT 'Event time of the first evidence',
    last_at DateTime64(3, 'UTC') COMMENT 'Event time of the last evidence',
    cleared_at Nullable(DateTime64(3, 'UTC')) COMMENT 'Event time of its end',
    count Int64 COMMENT 'How many occurrences it stands for',
    evidence Array(Tuple(id String, at DateTime64(3, 'UTC'), source String, text String)) CODEC(ZSTD(3)) COMMENT 'The first and the last few pieces of evidence',
    observed_at DateTime64(3, 'UTC') COMMENT 'When the deciding evidence was seen on the node'
)
ENGINE = ReplacingMergeTree
ORDER BY (fault_id, revision)
COMMENT 'Every revision of every fault; read fault_history for the latest of each.';

CREATE MATERIALIZED VIEW IF NOT EXISTS ${database}.fleet_faults_decode TO ${database}.fault_revisions AS
SELECT
    * EXCEPT (first_ms, last_ms, cleared_ms, observed_ms, evidence),
    fromUnixTimestamp64Milli(first_ms, 'UTC') AS first_at,
    fromUnixTimestamp64Milli(last_ms, 'UTC') AS last_at,
    fromUnixTimestamp64Milli(cleared_ms, 'UTC') AS cleared_at,
    fromUnixTimestamp64Milli(observed_ms, 'UTC') AS observed_at,
    arrayMap(piece -> (piece.1, fromUnixTimestamp64Milli(piece.2, 'UTC'), piece.3, piece.4), evidence) AS evidence
FROM ${database}.fleet_faults_in;

CREATE TABLE IF NOT EXISTS ${database}.fleet_incidents_in
(
    incident_id String,
    revision Int32,
    state LowCardinality(String),
    page Bool,
    site LowCardinality(String),
    racks Array(String),
    root String,
    root_fault_id String,
    root_class LowCardinality(String),
    root_code Nullable(Int32),
    root_node Nullable(String),
    root_gpu Nullable(String),
    root_pci Nullable(String),
    title String,
    severity LowCardinality(String),
    action LowCardinality(String),
    reason String,
    score Float64,
    members Array(Tuple(fault_id String, component String, fault_class String, code Nullable(Int32), role String, because String)),
    evidence Array(String),
    first_ms Int64,
    last_ms Int64,
    cleared_ms Nullable(Int64),
    observed_ms Int64,
    decided_ms Int64
)
ENGINE = Null
COMMENT 'The way in of topic fleet.incidents (Avro fields as they are). Keeps nothing: read incidents.';

CREATE TABLE IF NOT EXISTS ${database}.incident_revisions
(
    incident_id String COMMENT 'Kept for life, whatever joins',
    revision Int32 COMMENT 'Grows with every record of this incident',
    state LowCardinality(String) COMMENT 'open, updated or cleared',
    page Bool COMMENT 'True on exactly one revision: the one that alerts',
    site LowCardinality(String) COMMENT 'Data hall or region',
    racks Array(String) COMMENT 'Racks touched',
    root String COMMENT 'Component id of the root',
    root_fault_id String COMMENT 'The root''s fault',
    root_class LowCardinality(String) COMMENT 'The root''s fault class',
    root_code Nullable(Int32) COMMENT 'The root''s XID or SXid',
    root_node LowCardinality(Nullable(String)) COMMENT 'The root''s node',
    root_gpu Nullable(String) COMMENT 'The root''s GPU serial',
    root_pci Nullable(String) COMMENT 'The root''s PCI address',
    title String CODEC(ZSTD(3)) COMMENT 'One line for a pager',
    severity LowCardinality(String) COMMENT 'info, warning or critical',
    action LowCardinality(String) COMMENT 'The recommended action',
    reason String CODEC(ZSTD(3)) COMMENT 'Why this root',
    score Float64 COMMENT 'How well the root explains the members, 0 to 1',
    members Array(Tuple(fault_id String, component String, fault_class String, code Nullable(Int32), role String, because String)) CODEC(ZSTD(3)) COMMENT 'The faults, root first',
    evidence Array(String) CODEC(ZSTD(3)) COMMENT 'The deciding lines',
    first_at DateTime64(3, 'UTC') COMMENT 'Event time of the first evidence',
    last_at DateTime64(3, 'UTC') COMMENT 'Event time of the last evidence',
    cleared_at Nullable(DateTime64(3, 'UTC')) COMMENT 'Event time of its end',
    observed_at DateTime64(3, 'UTC') COMMENT 'When the first evidence was seen on a node',
    decided_at DateTime64(3, 'UTC') COMMENT 'When this revision was decided'
)
ENGINE = ReplacingMergeTree
ORDER BY (incident_id, revision)
COMMENT 'Every revision of every incident; read incidents for the latest of each.';

CREATE MATERIALIZED VIEW IF NOT EXISTS ${database}.fleet_incidents_decode TO ${database}.incident_revisions AS
SELECT
    * EXCEPT (first_ms, last_ms, cleared_ms, observed_ms, decided_ms),
    fromUnixTimestamp64Milli(first_ms, 'UTC') AS first_at,
    fromUnixTimestamp64Milli(last_ms, 'UTC') AS last_at,
    fromUnixTimestamp64Milli(cleared_ms, 'UTC') AS cleared_at,
    fromUnixTimestamp64Milli(observed_ms, 'UTC') AS observed_at,
    fromUnixTimestamp64Milli(decided_ms, 'UTC') AS decided_at
FROM ${database}.fleet_incidents_in;
