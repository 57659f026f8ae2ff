-- Where each GPU has been: one row per stay, from its first to its last sighting there.
--
-- Sightings are the first and last tick of each boot that lists the GPU (node_gpus), and what discovery found (the
-- inventory; what was declared counts only for a GPU that nobody ever found). A place is a node, and in it the slot (module
-- number) and PCI address: the inventory knows these, a sample does not, so they are carried over from the last sighting
-- in that node. The driver's index is shown and is no place: it shifts when another GPU is gone.
CREATE OR REPLACE VIEW ${database}.gpu_places AS
WITH
    discovered AS (SELECT component FROM ${database}.inventory_log WHERE kind = 'gpu' AND source = 'discovered'),
    sightings AS
    (
        SELECT listed.1 AS gpu, at, toString(node) AS node, toString(rack) AS rack, toString(site) AS site,
            toNullable(listed.2) AS gpu_index, CAST(NULL, 'Nullable(Int32)') AS seen_slot, CAST(NULL, 'Nullable(String)') AS seen_pci
        FROM (SELECT * EXCEPT (gpu_index, gpus), arrayZip(gpus, gpu_index) AS list FROM ${database}.node_gpus FINAL)
        ARRAY JOIN list AS listed
        ARRAY JOIN arrayDistinct([first_seen_at, last_seen_at]) AS at
        UNION ALL
        SELECT substring(component, 5) AS gpu, at, toString(ifNull(node, '')) AS node, toString(rack) AS rack,
            toString(site) AS site, gpu_index, slot AS seen_slot, pci AS seen_pci
        FROM (SELECT * FROM ${database}.inventory_log FINAL WHERE kind = 'gpu')
        ARRAY JOIN arrayDistinct([first_seen_at, last_seen_at]) AS at
        WHERE NOT removed AND (source = 'discovered' OR component NOT IN (discovered))
    ),
    placed AS
    (
        SELECT
            gpu, at, node, rack, site, gpu_index,
            anyLast(seen_slot) OVER in_node AS slot,
            anyLast(seen_pci) OVER in_node AS pci
        FROM sightings
        WINDOW in_node AS (PARTITION BY gpu, node ORDER BY at, seen_slot, seen_pci ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
    ),
    marked AS
    (
        SELECT
            *,
            row_number() OVER before > 1
            AND (
                node != lagInFrame(node) OVER before
                OR ifNull(slot != lagInFrame(slot) OVER before, false)
                OR ifNull(pci != lagInFrame(pci) OVER before, false)
            ) AS moved
        FROM placed
        WINDOW before AS (PARTITION BY gpu ORDER BY at, node, slot, pci ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
    ),
    stays AS
    (
        SELECT *, sum(moved) OVER before AS stay
        FROM marked
        WINDOW before AS (PARTITION BY gpu ORDER BY at, node, slot, pci ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
    )
SELECT
    gpu,
    toUInt32(stay) + 1 AS stay,
    argMax(s.site, s.at) AS site,
    argMax(s.rack, s.at) AS rack,
    any(s.node) AS node,
    anyLast(s.slot) AS slot,
    anyLast(s.pci) AS pci,
    argMax(s.gpu_index, s.at) AS gpu_index,
    min(s.at) AS first_seen_at,
    max(s.at) AS last_seen_at
FROM stays AS s
GROUP BY gpu, stay
COMMENT 'One row per stay of a GPU in a node and slot: first and last time it was seen there. Ask by gpu and order by first_seen_at'
