-- Where each component is now. What a node's agent found says where it is; what was declared says what it belongs to.
-- (argMax passes over NULL: what one source does not know, the other may.)
CREATE OR REPLACE VIEW ${database}.inventory AS
SELECT
    component,
    argMax(kind, found) AS kind,
    argMax(site, found) AS site,
    argMax(rack, found) AS rack,
    argMax(node, found) AS node,
    argMax(slot, found) AS slot,
    argMax(gpu_index, found) AS gpu_index,
    argMax(gpu_uuid, found) AS gpu_uuid,
    argMax(gpu_serial, found) AS gpu_serial,
    argMax(pci, found) AS pci,
    argMax(nvlink_domain, declared) AS nvlink_domain,
    argMax(leaf_switch, declared) AS leaf_switch,
    argMax(pdu, declared) AS pdu,
    argMax(chassis_serial, found) AS chassis_serial,
    argMax(sku, found) AS sku,
    argMax(driver_version, found) AS driver_version,
    argMax(vbios_version, found) AS vbios_version,
    argMax(board_part_number, found) AS board_part_number,
    argMax(inforom_version, found) AS inforom_version,
    argMax(job, found) AS job,
    argMax(source, last_seen_at) AS source,
    max(last_seen_at) AS seen_at,
    argMax(removed, last_seen_at) AS removed
FROM
(
    SELECT
        *,
        (source = 'discovered', last_seen_at) AS found,
        (source = 'declared', last_seen_at) AS declared
    FROM ${database}.inventory_log
)
GROUP BY component
COMMENT 'Where each component is now and what it belongs to; inventory_history and gpu_moves have where it was'
