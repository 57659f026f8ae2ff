-- NVLinks that are down, or whose errors rose, in the quarter of an hour before the newest reading.
-- A link that is down in a GPU without any link that is up (links_active = 0) may simply not be wired.
CREATE OR REPLACE VIEW ${database}.nvlink_health AS
WITH
    -- a node whose clock is ahead does not hide the others
    (SELECT least(now64(3, 'UTC'), max(tick_at)) FROM ${database}.nvlink_links) AS newest,
    readings AS
    (
        SELECT
            gpu, link, tick_at, node, rack, site, gpu_index, active, speed_mbps,
            [crc_flit_errors, crc_data_errors, replays, recoveries, recoveries_failed, symbol_errors, effective_errors] AS counters,
            arrayMap(
                (now, before) -> multiIf(isNaN(now) OR before IS NULL, 0, now < before, now, now - assumeNotNull(before)),
                counters,
                arrayResize(
                    anyLastForEach(arrayMap(now -> if(isNaN(now), NULL, now), counters)) OVER (
                        PARTITION BY gpu, link, source ORDER BY tick_at ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                    ),
                    length(counters),
                    NULL
                )
            ) AS growth
        FROM ${database}.nvlink_links
        WHERE tick_at > newest - INTERVAL 15 MINUTE
            AND tick_at <= newest
            AND toStartOfHour(tick_at) >= toStartOfHour(newest - INTERVAL 15 MINUTE)
    ),
    links AS
    (
        SELECT
            gpu,
            link,
            argMax(r.node, r.tick_at) AS node,
            argMax(r.rack, r.tick_at) AS rack,
            argMax(r.site, r.tick_at) AS site,
            argMax(r.gpu_index, r.tick_at) AS gpu_index,
            argMaxIf(r.active, r.tick_at, NOT isNaN(r.active)) AS last_active,
            countIf(NOT isNaN(r.active)) > 0 AS active_read,
            countIf(r.active = 1) > 0 AS was_active,
            argMax(r.speed_mbps, r.tick_at) AS speed_mbps,
            max(r.tick_at) AS last_tick_at,
            sumForEach(r.growth) AS growth
        FROM readings AS r
        GROUP BY gpu, link
    )
SELECT
    gpu,
    link,
    node,
    rack,
    site,
    gpu_index,
    active_read AND last_active = 0 AS down,
    down AND was_active AS went_down,
    mapFilter(
        (name, added) -> added > 0,
        mapFromArrays(['crc_flit_errors', 'crc_data_errors', 'replays', 'recoveries', 'recoveries_failed', 'symbol_errors', 'effective_errors'], growth)
    ) AS rising,
    speed_mbps,
    countIf(active_read AND last_active = 1) OVER (PARTITION BY gpu) AS links_active,
    count() OVER (PARTITION BY gpu) AS links,
    last_tick_at,
    round(date_diff('millisecond', last_tick_at, now64(3, 'UTC')) / 1000, 3) AS age_seconds
FROM links
QUALIFY down OR notEmpty(rising)
COMMENT 'One row per NVLink that is down or whose errors rose in the last 15 minutes: what rose and by how much, how many links of its GPU are up'
