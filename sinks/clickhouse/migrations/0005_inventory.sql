-- Where each component is and was.

CREATE TABLE IF NOT EXISTS ${database}.fleet_inventory_in
(
    component String,
    kind LowCardinality(String),
    site LowCardinality(String),
    rack LowCardinality(String),
    node Nullable(String),
    slot Nullable(Int32),
    gpu_index Nullable(Int32),
    gpu_uuid Nullable(String),
    gpu_serial Nullable(String),
    pci Nullable(String),
    nvlink_domain Nullable(String),
    leaf_switch Nullable(String),
    pdu Nullable(String),
    chassis_serial Nullable(String),
    sku Nullable(String),
    driver_version Nullable(String),
    vbios_version Nullable(String),
    job Nullable(String),
    source LowCardinality(String),
    seen_ms Int64,
    removed Bool DEFAULT false
)
ENGINE = Null
COMMENT 'The way in of topic fleet.inventory (Avro fields as they are). Keeps nothing: read inventory.';

-- Discovery says the same again and again. One row per component, day and content keeps the moves (a GPU that goes away
-- and comes back on another day shows both) and not the repetitions; min and max make redelivery harmless.
CREATE TABLE IF NOT EXISTS ${database}.inventory_log
(
    component String COMMENT 'gpu:SERIAL, node:NAME, rack:NAME, nvlink_domain:NAME, leaf_switch:NAME, pdu:NAME',
    day Date COMMENT 'Day of the sighting, UTC',
    content UInt64 COMMENT 'A hash of all that follows but the two times: with the same key, the rest is the same too',
    first_seen_at SimpleAggregateFunction(min, DateTime64(3, 'UTC')) COMMENT 'First sighting of this content on this day',
    last_seen_at SimpleAggregateFunction(max, DateTime64(3, 'UTC')) COMMENT 'Last sighting of this content on this day',
    kind SimpleAggregateFunction(any, LowCardinality(String)) COMMENT 'gpu, node, rack, nvlink_domain, leaf_switch, pdu',
    site SimpleAggregateFunction(any, LowCardinality(String)) COMMENT 'Data hall or region',
    rack SimpleAggregateFunction(any, LowCardinality(String)) COMMENT 'Rack; for a switch or PDU the rack it stands in',
    node SimpleAggregateFunction(any, LowCardinality(Nullable(String))) COMMENT 'The node it is in',
    slot SimpleAggregateFunction(any, Nullable(Int32)) COMMENT 'Rack unit or tray of a node, module number of a GPU',
    gpu_index SimpleAggregateFunction(any, Nullable(Int32)) COMMENT 'The driver''s index',
    gpu_uuid SimpleAggregateFunction(any, Nullable(String)) COMMENT 'GPU UUID',
    gpu_serial SimpleAggregateFunction(any, Nullable(String)) COMMENT 'GPU board serial',
    pci SimpleAggregateFunction(any, Nullable(String)) COMMENT 'PCI address, 0000:91:00',
    nvlink_domain SimpleAggregateFunction(any, LowCardinality(Nullable(String))) COMMENT 'The NVLink domain',
    leaf_switch SimpleAggregateFunction(any, LowCardinality(Nullable(String))) COMMENT 'The leaf switch of the node''s fabric ports',
    pdu SimpleAggregateFunction(any, LowCardinality(Nullable(String))) COMMENT 'The PDU or power shelf',
    chassis_serial SimpleAggregateFunction(any, Nullable(String)) COMMENT 'Chassis serial of the node',
    sku SimpleAggregateFunction(any, LowCardinality(Nullable(String))) COMMENT 'Product name',
    driver_version SimpleAggregateFunction(any, LowCardinality(Nullable(String))) COMMENT 'Driver version',
    vbios_version SimpleAggregateFunction(any, LowCardinality(Nullable(String))) COMMENT 'VBIOS version',
    job SimpleAggregateFunction(any, Nullable(String)) COMMENT 'The job placed on it, where known',
    source SimpleAggregateFunction(any, LowCardinality(String)) COMMENT 'declared or discovered',
    removed SimpleAggregateFunction(any, Bool) COMMENT 'It left the fleet'
)
ENGINE = AggregatingMergeTree
ORDER BY (component, day, content)
COMMENT 'Sightings of components, one row per component, day and content; read inventory for where each is now.';

CREATE MATERIALIZED VIEW IF NOT EXISTS ${database}.fleet_inventory_decode TO ${database}.inventory_log AS
SELECT
    * EXCEPT (seen_ms),
    toDate(fromUnixTimestamp64Milli(seen_ms, 'UTC')) AS day,
    -- over the text of a tuple: a hash with a NULL among its arguments is NULL
    sipHash64(toString((kind, site, rack, node, slot, gpu_index, gpu_uuid, gpu_serial, pci, nvlink_domain, leaf_switch, pdu,
        chassis_serial, sku, driver_version, vbios_version, job, source, removed))) AS content,
    fromUnixTimestamp64Milli(seen_ms, 'UTC') AS first_seen_at,
    fromUnixTimestamp64Milli(seen_ms, 'UTC') AS last_seen_at
FROM ${database}.fleet_inventory_in;
