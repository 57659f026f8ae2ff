-- Every change of a component: what it was before, what it is since, and who said so (declared and discovered apart).
-- inventory_log has a row per day and content, with its first and its last sighting. Both count: what was seen again after
-- something else on the same day is a change back.
CREATE OR REPLACE VIEW ${database}.inventory_history AS
WITH
    [
        'site', 'rack', 'node', 'slot', 'gpu_index', 'gpu_uuid', 'gpu_serial', 'pci', 'nvlink_domain', 'leaf_switch', 'pdu',
        'chassis_serial', 'sku', 'driver_version', 'vbios_version', 'board_part_number', 'inforom_version', 'job', 'removed'
    ] AS names
SELECT
    component,
    at,
    source,
    kind,
    if(first, 'first seen', 'changed') AS entry,
    changes,
    site,
    rack,
    node,
    slot,
    gpu_index,
    pci,
    removed
FROM
(
    SELECT
        component, at, source, kind, site, rack, node, slot, gpu_index, pci, removed,
        [
            toNullable(toString(site)), toNullable(toString(rack)), toNullable(toString(node)), toString(slot), toString(gpu_index), gpu_uuid,
            gpu_serial, pci, toNullable(toString(nvlink_domain)), toNullable(toString(leaf_switch)),
            toNullable(toString(pdu)), chassis_serial, toNullable(toString(sku)),
            toNullable(toString(driver_version)), toNullable(toString(vbios_version)),
            toNullable(toString(board_part_number)), toNullable(toString(inforom_version)), job,
            toNullable(toString(removed))
        ] AS fields,
        lagInFrame(fields) OVER before AS fields_before,
        row_number() OVER before = 1 AS first,
        if(first, [], arrayFilter(
            change -> ifNull(change.2, '') != ifNull(change.3, ''),
            arrayMap((name, was, is) -> (name, was, is), names, if(first, fields, fields_before), fields)
        ))::Array(Tuple(field String, was Nullable(String), is Nullable(String))) AS changes
    FROM (SELECT * FROM ${database}.inventory_log FINAL)
    ARRAY JOIN arrayDistinct([first_seen_at, last_seen_at]) AS at
    WINDOW before AS (PARTITION BY component, source ORDER BY at, content ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
)
WHERE first OR notEmpty(changes)
COMMENT 'One row per change of a component: when it was first seen so, who said it (declared or discovered), and each field that changed with what it was and is'
