-- What operators say of faults, what else could explain an incident, and the health of every component.
-- The tables first and the ways in last: whoever writes in between loses nothing.

ALTER TABLE ${database}.fault_revisions
    ADD COLUMN IF NOT EXISTS action_rule LowCardinality(String) COMMENT 'What chose the action: a catalogue entry, or a rung of the ladder',
    ADD COLUMN IF NOT EXISTS recurrence Int32 COMMENT 'How many faults of this class the component had in the time that the ladder looks back',
    ADD COLUMN IF NOT EXISTS flapping Bool COMMENT 'It came and went so often that it now stands until it has been quiet for long',
    ADD COLUMN IF NOT EXISTS job Nullable(String) COMMENT 'The job on the component when the fault began',
    ADD COLUMN IF NOT EXISTS maintenance Nullable(String) COMMENT 'The fault id of the announced work that explains it',
    ADD COLUMN IF NOT EXISTS acknowledged_by Nullable(String) COMMENT 'Who takes care of it',
    ADD COLUMN IF NOT EXISTS acknowledged_at Nullable(DateTime64(3, 'UTC')) COMMENT 'When somebody said so',
    ADD COLUMN IF NOT EXISTS snoozed_until Nullable(DateTime64(3, 'UTC')) COMMENT 'Until then it wakes nobody',
    ADD COLUMN IF NOT EXISTS worsened_at Nullable(DateTime64(3, 'UTC')) COMMENT 'Event time of the first evidence of its present severity; NULL: it began as severe as it is';

ALTER TABLE ${database}.fleet_faults_in
    ADD COLUMN IF NOT EXISTS action_rule LowCardinality(String),
    ADD COLUMN IF NOT EXISTS recurrence Int32,
    ADD COLUMN IF NOT EXISTS flapping Bool,
    ADD COLUMN IF NOT EXISTS job Nullable(String),
    ADD COLUMN IF NOT EXISTS maintenance Nullable(String),
    ADD COLUMN IF NOT EXISTS acknowledged_by Nullable(String),
    ADD COLUMN IF NOT EXISTS acknowledged_ms Nullable(Int64),
    ADD COLUMN IF NOT EXISTS snoozed_until_ms Nullable(Int64),
    ADD COLUMN IF NOT EXISTS worsened_ms Nullable(Int64);

ALTER TABLE ${database}.fleet_faults_decode MODIFY QUERY
SELECT
    * EXCEPT (first_ms, last_ms, cleared_ms, observed_ms, acknowledged_ms, snoozed_until_ms, worsened_ms, evidence),
    fromUnixTimestamp64Milli(first_ms, 'UTC') AS first_at,
    fromUnixTimestamp64Milli(last_ms, 'UTC') AS last_at,
    fromUnixTimestamp64Milli(cleared_ms, 'UTC') AS cleared_at,
    fromUnixTimestamp64Milli(observed_ms, 'UTC') AS observed_at,
    fromUnixTimestamp64Milli(acknowledged_ms, 'UTC') AS acknowledged_at,
    fromUnixTimestamp64Milli(snoozed_until_ms, 'UTC') AS snoozed_until,
    fromUnixTimestamp64Milli(worsened_ms, 'UTC') AS worsened_at,
    arrayMap(piece -> (piece.1, fromUnixTimestamp64Milli(piece.2, 'UTC'), piece.3, piece.4), evidence) AS evidence
FROM ${database}.fleet_faults_in;

ALTER TABLE ${database}.incident_revisions
    ADD COLUMN IF NOT EXISTS alternatives Array(Tuple(component String, fault_class String, score Float64, because String, tell_apart String)) CODEC(ZSTD(3)) COMMENT 'Competing explanations, the best first, and what would decide',
    ADD COLUMN IF NOT EXISTS chance Nullable(Float64) COMMENT 'How likely so many faults come together by chance, by the fleet''s own base rates; NULL: not reckoned',
    ADD COLUMN IF NOT EXISTS jobs Array(String) COMMENT 'Jobs on the members when they failed',
    ADD COLUMN IF NOT EXISTS merged_into Nullable(String) COMMENT 'The incident that took its faults over',
    ADD COLUMN IF NOT EXISTS split_from Nullable(String) COMMENT 'The incident that its faults were part of before',
    ADD COLUMN IF NOT EXISTS acknowledged_by Nullable(String) COMMENT 'Who takes care of its root';

ALTER TABLE ${database}.fleet_incidents_in
    ADD COLUMN IF NOT EXISTS alternatives Array(Tuple(component String, fault_class String, score Float64, because String, tell_apart String)),
    ADD COLUMN IF NOT EXISTS chance Nullable(Float64),
    ADD COLUMN IF NOT EXISTS jobs Array(String),
    ADD COLUMN IF NOT EXISTS merged_into Nullable(String),
    ADD COLUMN IF NOT EXISTS split_from Nullable(String),
    ADD COLUMN IF NOT EXISTS acknowledged_by Nullable(String);

ALTER TABLE ${database}.fleet_incidents_decode MODIFY QUERY
SELECT
    * EXCEPT (first_ms, last_ms, cleared_ms, observed_ms, decided_ms),
    fromUnixTimestamp64Milli(first_ms, 'UTC') AS first_at,
    fromUnixTimestamp64Milli(last_ms, 'UTC') AS last_at,
    fromUnixTimestamp64Milli(cleared_ms, 'UTC') AS cleared_at,
    fromUnixTimestamp64Milli(observed_ms, 'UTC') AS observed_at,
    fromUnixTimestamp64Milli(decided_ms, 'UTC') AS decided_at
FROM ${database}.fleet_incidents_in;

CREATE TABLE IF NOT EXISTS ${database}.verdict_revisions
(
    component String COMMENT 'Component id: gpu:SERIAL, node:NAME, rack:NAME',
    component_kind LowCardinality(String) COMMENT 'gpu, node or rack',
    revision Int32 COMMENT 'Grows with every record of this component',
    site LowCardinality(String) COMMENT 'Data hall or region',
    rack LowCardinality(String) COMMENT 'Rack',
    node LowCardinality(Nullable(String)) COMMENT 'Node, of a GPU or node',
    gpu Nullable(String) COMMENT 'Serial (or UUID), of a GPU',
    health LowCardinality(String) COMMENT 'healthy, degraded, unhealthy or unknown',
    rentable Bool COMMENT 'Whether it may be rented out',
    action LowCardinality(String) COMMENT 'The most that any reason asks for',
    reasons Array(Tuple(effect String, component String, fault_class String, severity String, fault_id Nullable(String), rule String, text String)) CODEC(ZSTD(3)) COMMENT 'What speaks on its health, the weightiest first',
    since_at DateTime64(3, 'UTC') COMMENT 'Since when its health is what it is, event time',
    decided_at DateTime64(3, 'UTC') COMMENT 'When this revision was decided'
)
ENGINE = ReplacingMergeTree
ORDER BY (component, decided_at, revision)
COMMENT 'Every revision of every verdict; read verdicts for the latest of each, verdict_history for the rest.';

CREATE TABLE IF NOT EXISTS ${database}.fleet_verdicts_in
(
    component String,
    component_kind LowCardinality(String),
    revision Int32,
    site LowCardinality(String),
    rack LowCardinality(String),
    node Nullable(String),
    gpu Nullable(String),
    health LowCardinality(String),
    rentable Bool,
    action LowCardinality(String) DEFAULT 'none',
    reasons Array(Tuple(effect String, component String, fault_class String, severity String, fault_id Nullable(String), rule String, text String)),
    since_ms Int64,
    decided_ms Int64
)
ENGINE = Null
COMMENT 'The way in of topic fleet.verdicts (Avro fields as they are). Keeps nothing: read verdicts.';

CREATE MATERIALIZED VIEW IF NOT EXISTS ${database}.fleet_verdicts_decode TO ${database}.verdict_revisions AS
SELECT
    * EXCEPT (since_ms, decided_ms),
    fromUnixTimestamp64Milli(since_ms, 'UTC') AS since_at,
    fromUnixTimestamp64Milli(decided_ms, 'UTC') AS decided_at
FROM ${database}.fleet_verdicts_in;
