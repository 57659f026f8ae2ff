-- Every GPU of the fleet now: what it last said, how long ago, how healthy it is, and what is wrong with it or its node.
-- A GPU that reports and has no verdict yet is unknown, and not to be rented: nobody has looked at its faults.
CREATE OR REPLACE VIEW ${database}.fleet_now AS
WITH
    faults AS
    (
        SELECT
            coalesce(gpu, '') AS gpu,
            coalesce(node, '') AS node,
            component_kind,
            fault_class,
            transform(severity, ['info', 'warning', 'critical'], [1, 2, 3], 0) AS weight
        FROM
        (
            SELECT *
            FROM ${database}.fault_revisions
            ORDER BY revision DESC
            LIMIT 1 BY fault_id
        )
        WHERE state != 'cleared'
    ),
    sightings AS
    (
        SELECT gpu, site, rack, node, index AS gpu_index, tick_at,
            temperature AS temperature_celsius, memory_temperature AS memory_temperature_celsius, power AS power_watts,
            clock AS sm_clock_mhz, utilization AS gpu_utilization_percent, memory AS memory_used_bytes,
            links AS nvlink_links_active, throttle AS throttle_reasons
        FROM ${database}.node_last
        ARRAY JOIN gpus AS gpu, gpu_index AS index, temperature_celsius AS temperature,
            memory_temperature_celsius AS memory_temperature, power_watts AS power, sm_clock_mhz AS clock,
            gpu_utilization_percent AS utilization, memory_used_bytes AS memory, nvlink_links_active AS links,
            throttle_reasons AS throttle
        UNION ALL
        -- declared or discovered, but never heard of
        SELECT coalesce(gpu_serial, gpu_uuid, '') AS gpu, site, rack, coalesce(node, '') AS node,
            coalesce(gpu_index, -1) AS gpu_index, toDateTime64(0, 3, 'UTC') AS tick_at,
            nan AS temperature_celsius, nan AS memory_temperature_celsius, nan AS power_watts, nan AS sm_clock_mhz,
            nan AS gpu_utilization_percent, nan AS memory_used_bytes, nan AS nvlink_links_active, -1 AS throttle_reasons
        FROM ${database}.inventory
        WHERE kind = 'gpu' AND NOT removed AND gpu != ''
    )
SELECT
    now.gpu AS gpu,
    now.site AS site,
    now.rack AS rack,
    now.node AS node,
    now.gpu_index AS gpu_index,
    nullIf(now.tick_at, toDateTime64(0, 3, 'UTC')) AS last_tick_at,
    round(date_diff('millisecond', last_tick_at, now64(3, 'UTC')) / 1000, 3) AS age_seconds,
    own.open_faults AS open_faults,
    shared.open_faults AS open_node_faults,
    ['', 'info', 'warning', 'critical'][greatest(own.weight, shared.weight) + 1] AS worst_severity,
    if(verdict.health = '', 'unknown', verdict.health) AS health,
    verdict.rentable AS rentable,
    now.temperature_celsius AS temperature_celsius,
    now.memory_temperature_celsius AS memory_temperature_celsius,
    now.power_watts AS power_watts,
    now.sm_clock_mhz AS sm_clock_mhz,
    now.gpu_utilization_percent AS gpu_utilization_percent,
    now.memory_used_bytes AS memory_used_bytes,
    now.nvlink_links_active AS nvlink_links_active,
    now.throttle_reasons AS throttle_reasons
FROM (SELECT * FROM sightings ORDER BY tick_at DESC LIMIT 1 BY gpu) AS now
LEFT JOIN
(
    SELECT gpu, groupUniqArray(fault_class) AS open_faults, max(weight) AS weight
    FROM faults
    WHERE gpu != ''
    GROUP BY gpu
) AS own ON own.gpu = now.gpu
LEFT JOIN
(
    SELECT node, groupUniqArray(fault_class) AS open_faults, max(weight) AS weight
    FROM faults
    WHERE gpu = '' AND component_kind = 'node'
    GROUP BY node
) AS shared ON shared.node = now.node
LEFT JOIN
(
    SELECT assumeNotNull(gpu) AS gpu, toString(health) AS health, rentable
    FROM ${database}.verdicts
    WHERE gpu IS NOT NULL
) AS verdict ON verdict.gpu = now.gpu
COMMENT 'One row per GPU: its last tick and key metrics (NaN: not read), seconds since, open fault classes of it and of its node, worst severity, health (unknown: no verdict yet) and whether it may be rented'
