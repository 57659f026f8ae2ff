-- The disks and file systems of each node, reading by reading.
CREATE OR REPLACE VIEW ${database}.disk_history AS
SELECT
    node,
    tupleElement(disk, 'name') AS name,
    tick_at,
    rack,
    site,
    round(100 * tupleElement(disk, 'used_bytes') / nullIf(tupleElement(disk, 'total_bytes'), 0), 2) AS used_percent,
    tupleElement(disk, 'used_bytes') AS used_bytes,
    tupleElement(disk, 'total_bytes') AS total_bytes,
    tupleElement(disk, 'busy_percent') AS busy_percent,
    tupleElement(disk, 'read_bytes_per_second') AS read_bytes_per_second,
    tupleElement(disk, 'write_bytes_per_second') AS write_bytes_per_second
FROM ${database}.node_samples FINAL
ARRAY JOIN disks AS disk
COMMENT 'One row per disk or file system and reading: how full, how busy, read and written. NULL: not read'
