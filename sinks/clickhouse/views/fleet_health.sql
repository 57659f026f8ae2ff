-- How much of the fleet can be sold now, by rack and SKU. Sum over racks for a site, over sites for a SKU.
CREATE OR REPLACE VIEW ${database}.fleet_health AS
SELECT
    now.site AS site,
    now.rack AS rack,
    ifNull(skus.sku, '') AS sku,
    count() AS gpus,
    countIf(now.rentable) AS gpus_rentable,
    countIf(now.health = 'healthy') AS gpus_healthy,
    countIf(now.health = 'degraded') AS gpus_degraded,
    countIf(now.health = 'unhealthy') AS gpus_unhealthy,
    countIf(now.health = 'unknown') AS gpus_unknown,
    -- nothing is wrong with them: their node waits for another, or is worked on
    countIf(now.health = 'healthy' AND NOT now.rentable) AS gpus_blocked,
    countIf(now.warned) AS gpus_with_warnings,
    uniqExact(now.node) AS nodes,
    uniqExactIf(now.node, now.rentable) AS nodes_with_rentable_gpus,
    any(racks.health) AS rack_health,
    any(racks.rentable) AS rack_rentable
FROM
(
    SELECT
        fleet.gpu AS gpu,
        fleet.site AS site,
        fleet.rack AS rack,
        fleet.node AS node,
        fleet.health AS health,
        fleet.rentable AS rentable,
        notEmpty(of_gpu.early_warnings) AS warned
    FROM ${database}.fleet_now AS fleet
    LEFT JOIN (SELECT assumeNotNull(gpu) AS gpu, early_warnings FROM ${database}.verdicts WHERE gpu IS NOT NULL) AS of_gpu
        ON of_gpu.gpu = fleet.gpu
) AS now
LEFT JOIN (SELECT component, sku, removed FROM ${database}.inventory WHERE kind = 'gpu') AS skus
    ON skus.component = concat('gpu:', now.gpu)
LEFT JOIN (SELECT site, rack, health, rentable FROM ${database}.verdicts WHERE component_kind = 'rack') AS racks
    ON racks.site = now.site AND racks.rack = now.rack
WHERE NOT ifNull(skus.removed, false)
GROUP BY site, rack, sku
COMMENT 'One row per rack and SKU: how many GPUs there are, may be rented, are healthy, degraded, unhealthy, unknown, blocked (healthy, but their node may not be rented) or warned of; how the rack is as a whole'
