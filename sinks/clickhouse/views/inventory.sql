-- Where each component is now: its newest sighting.
CREATE OR REPLACE VIEW ${database}.inventory AS
SELECT
    component, kind, site, rack, node, slot, gpu_index, gpu_uuid, gpu_serial, pci, nvlink_domain, leaf_switch, pdu,
    chassis_serial, sku, driver_version, vbios_version, job, source, last_seen_at AS seen_at, removed
FROM ${database}.inventory_log
ORDER BY last_seen_at DESC
LIMIT 1 BY component
COMMENT 'Where each component is now and what it belongs to; gpu_history has where it was'
