-- Every move of a GPU: where from, where to, when it was last seen there and first seen here.
CREATE OR REPLACE VIEW ${database}.gpu_moves AS
SELECT
    gpu,
    from_node,
    from_slot,
    from_pci,
    from_rack,
    node AS to_node,
    slot AS to_slot,
    pci AS to_pci,
    rack AS to_rack,
    left_after,
    first_seen_at,
    last_seen_at
FROM
(
    SELECT
        *,
        lagInFrame(node) OVER before AS from_node,
        lagInFrame(slot) OVER before AS from_slot,
        lagInFrame(pci) OVER before AS from_pci,
        lagInFrame(rack) OVER before AS from_rack,
        lagInFrame(last_seen_at) OVER before AS left_after,
        row_number() OVER before AS place
    FROM ${database}.gpu_places
    WINDOW before AS (PARTITION BY gpu ORDER BY stay ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
)
WHERE place > 1
COMMENT 'One row per move of a GPU to another node or slot: from where, last seen there (left_after), to where, first and last seen here'
