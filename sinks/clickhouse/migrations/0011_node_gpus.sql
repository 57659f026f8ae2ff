-- Which GPUs each node listed, from when until when: the samples' own word on where a GPU has been, at one row per boot
-- and list. A GPU does not change its node while both run, so min and max per boot keep every move; they make redelivery
-- harmless, too.
CREATE TABLE IF NOT EXISTS ${database}.node_gpus
(
    node String COMMENT 'Node',
    boot_id String COMMENT 'The node''s boot',
    gpus Array(String) COMMENT 'The GPUs it listed',
    gpu_index Array(Int32) COMMENT 'The driver''s index of each',
    site LowCardinality(String) COMMENT 'Data hall or region',
    rack LowCardinality(String) COMMENT 'Rack',
    first_seen_at SimpleAggregateFunction(min, DateTime64(3, 'UTC')) COMMENT 'First tick of this boot with this list',
    last_seen_at SimpleAggregateFunction(max, DateTime64(3, 'UTC')) COMMENT 'Last tick of this boot with this list'
)
ENGINE = AggregatingMergeTree
ORDER BY (node, boot_id, gpus, gpu_index, site, rack)
COMMENT 'Which GPUs each node listed, one row per boot and list; read gpu_places and gpu_moves.';

CREATE MATERIALIZED VIEW IF NOT EXISTS ${database}.node_gpus_decode TO ${database}.node_gpus AS
SELECT
    node,
    boot_id,
    gpus,
    gpu_index,
    site,
    rack,
    fromUnixTimestamp64Milli(min(tick_ms), 'UTC') AS first_seen_at,
    fromUnixTimestamp64Milli(max(tick_ms), 'UTC') AS last_seen_at
FROM ${database}.gpu_samples_in
WHERE notEmpty(gpus)
GROUP BY node, boot_id, gpus, gpu_index, site, rack;
