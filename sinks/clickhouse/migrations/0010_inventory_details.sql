-- The board's part number and its InfoROM. The table first and the way in last: whoever writes in between loses nothing.

ALTER TABLE ${database}.inventory_log
    ADD COLUMN IF NOT EXISTS board_part_number SimpleAggregateFunction(any, LowCardinality(Nullable(String))) COMMENT 'Part number of the board, to order another' AFTER vbios_version,
    ADD COLUMN IF NOT EXISTS inforom_version SimpleAggregateFunction(any, LowCardinality(Nullable(String))) COMMENT 'Version of the InfoROM image' AFTER board_part_number;

ALTER TABLE ${database}.fleet_inventory_in
    ADD COLUMN IF NOT EXISTS board_part_number Nullable(String) AFTER vbios_version,
    ADD COLUMN IF NOT EXISTS inforom_version Nullable(String) AFTER board_part_number;

-- The hash is the one of before where neither is known, so that a sighting that says no more than before is the same row.
ALTER TABLE ${database}.fleet_inventory_decode MODIFY QUERY
SELECT
    * EXCEPT (seen_ms),
    toDate(fromUnixTimestamp64Milli(seen_ms, 'UTC')) AS day,
    sipHash64(concat(
        toString((kind, site, rack, node, slot, gpu_index, gpu_uuid, gpu_serial, pci, nvlink_domain, leaf_switch, pdu,
            chassis_serial, sku, driver_version, vbios_version, job, source, removed)),
        if(board_part_number IS NULL AND inforom_version IS NULL, '', toString((board_part_number, inforom_version)))
    )) AS content,
    fromUnixTimestamp64Milli(seen_ms, 'UTC') AS first_seen_at,
    fromUnixTimestamp64Milli(seen_ms, 'UTC') AS last_seen_at
FROM ${database}.fleet_inventory_in;
