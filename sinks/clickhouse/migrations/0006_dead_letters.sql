-- Bytes that could not be used. Two readers may refuse the same record, each with its reason; dead_letters shows it once.

CREATE TABLE IF NOT EXISTS ${database}.dead_letters_in
(
    topic LowCardinality(String),
    partition Int32,
    `offset` Int64,
    reason LowCardinality(String),
    detail String,
    reader LowCardinality(String),
    key Nullable(String),
    value String,
    observed_ms Int64
)
ENGINE = Null
COMMENT 'The way in of topic dead.letters (Avro fields as they are). Keeps nothing: read dead_letters.';

CREATE TABLE IF NOT EXISTS ${database}.dead_letter_log
(
    topic LowCardinality(String) COMMENT 'Where it was read',
    partition Int32 COMMENT 'Kafka partition',
    `offset` Int64 COMMENT 'Kafka offset',
    reader LowCardinality(String) COMMENT 'Who could not use it',
    reason LowCardinality(String) COMMENT 'not_avro, unknown_schema, truncated, wrong_gpu_count, time_in_future, rejected_by_sink, …',
    detail String CODEC(ZSTD(3)) COMMENT 'One sentence for a human',
    key Nullable(String) COMMENT 'The record''s key',
    value String CODEC(ZSTD(3)) COMMENT 'The record''s bytes as they came',
    observed_at DateTime64(3, 'UTC') COMMENT 'When it was met'
)
ENGINE = ReplacingMergeTree(observed_at)
ORDER BY (topic, partition, `offset`, reader)
COMMENT 'Refused records, one row per record and reader; read dead_letters.';

CREATE MATERIALIZED VIEW IF NOT EXISTS ${database}.dead_letters_decode TO ${database}.dead_letter_log AS
SELECT
    * EXCEPT (observed_ms),
    fromUnixTimestamp64Milli(observed_ms, 'UTC') AS observed_at
FROM ${database}.dead_letters_in;
