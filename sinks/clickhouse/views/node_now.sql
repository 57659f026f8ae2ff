-- Every node now: its host beside its GPUs and its ports, and what is wrong with it.
CREATE OR REPLACE VIEW ${database}.node_now AS
WITH
    hosts AS (SELECT * FROM ${database}.host_last ORDER BY tick_at DESC LIMIT 1 BY node),
    gpus AS
    (
        SELECT
            node,
            argMax(site, tick_at) AS site,
            argMax(rack, tick_at) AS rack,
            max(tick_at) AS gpu_tick_at,
            argMax(length(gpus), tick_at) AS gpu_count,
            argMax(arrayCount(one -> NOT isNaN(one), power_watts), tick_at) AS gpus_answering,
            argMax(arrayFilter(one -> NOT isNaN(one), temperature_celsius), tick_at) AS temperatures,
            argMax(arrayFilter(one -> NOT isNaN(one), power_watts), tick_at) AS powers,
            argMax(arrayFilter(one -> NOT isNaN(one), gpu_utilization_percent), tick_at) AS utilizations
        FROM ${database}.node_last
        GROUP BY node
    ),
    -- All ports of a node are told in one record. One that the newest no longer tells of is gone: its card fell off, or it
    -- was renamed. 60 s are a few intervals (10 s each by default): while a driver is reloaded one read may miss a port.
    -- A node without any port says nothing of ports, so they are gone as well when its host speaks on for 2 hours (two of
    -- the longest interval that can be set).
    ports AS
    (
        SELECT
            node,
            countIf(there) AS port_count,
            arraySort(groupArrayIf(concat(name, ': ', reason), there AND ifNull(degraded, false))) AS ports_degraded,
            arraySort(groupArrayIf(name, NOT there AND tick_at > newest_at - INTERVAL 7 DAY)) AS ports_gone
        FROM
        (
            SELECT
                last.node AS node,
                last.tick_at AS tick_at,
                last.degraded AS degraded,
                last.reason AS reason,
                concat(last.device, '/', toString(last.port)) AS name,
                greatest(max(last.tick_at) OVER (PARTITION BY last.node), hosts.tick_at - INTERVAL 2 HOUR) AS newest_at,
                last.tick_at >= newest_at - INTERVAL 60 SECOND AS there
            FROM (SELECT * FROM ${database}.port_last ORDER BY tick_at DESC LIMIT 1 BY node, device, port) AS last
            LEFT JOIN hosts ON hosts.node = last.node
        )
        GROUP BY node
    ),
    faults AS
    (
        SELECT coalesce(f.node, '') AS node, groupUniqArray(f.fault_class) AS open_faults
        FROM (SELECT * FROM ${database}.fault_revisions ORDER BY revision DESC LIMIT 1 BY fault_id) AS f
        WHERE f.state != 'cleared'
        GROUP BY node
    ),
    -- where it says it is: by whoever spoke last, since a node that is moved to another rack has rows of both
    nodes AS
    (
        SELECT node, argMax(said_site, said_at) AS site, argMax(said_rack, said_at) AS rack
        FROM
        (
            SELECT node, toString(site) AS said_site, toString(rack) AS said_rack, tick_at AS said_at FROM hosts
            UNION ALL
            SELECT node, toString(site) AS said_site, toString(rack) AS said_rack, gpu_tick_at AS said_at FROM gpus
        )
        GROUP BY node
    )
SELECT
    nodes.node AS node,
    nodes.site AS site,
    nodes.rack AS rack,
    nullIf(greatest(hosts.tick_at, gpus.gpu_tick_at), toDateTime64(0, 3, 'UTC')) AS last_tick_at,
    round(date_diff('millisecond', last_tick_at, now64(3, 'UTC')) / 1000, 3) AS age_seconds,
    faults.open_faults AS open_faults,
    hosts.cpu_utilization_percent AS cpu_utilization_percent,
    hosts.cpu_iowait_percent AS cpu_iowait_percent,
    hosts.cpu_count AS cpu_count,
    hosts.cpu_temperature_celsius AS cpu_temperature_celsius,
    hosts.load_1m AS load_1m,
    round(100 * hosts.memory_used_bytes / nullIf(hosts.memory_total_bytes, 0), 2) AS memory_used_percent,
    hosts.memory_available_bytes AS memory_available_bytes,
    round(100 * hosts.swap_used_bytes / nullIf(hosts.swap_total_bytes, 0), 2) AS swap_used_percent,
    hosts.memory_pressure_full_percent AS memory_pressure_full_percent,
    hosts.io_pressure_full_percent AS io_pressure_full_percent,
    hosts.disk_used_percent AS disk_used_percent,
    hosts.oom_kills AS oom_kills,
    hosts.uptime_s AS uptime_s,
    gpus.gpu_count AS gpu_count,
    gpus.gpus_answering AS gpus_answering,
    if(empty(gpus.temperatures), nan, arrayMax(gpus.temperatures)) AS gpu_temperature_celsius_max,
    if(empty(gpus.powers), nan, arraySum(gpus.powers)) AS gpu_power_watts,
    if(empty(gpus.utilizations), nan, arrayAvg(gpus.utilizations)) AS gpu_utilization_percent,
    ports.port_count AS port_count,
    ports.ports_degraded AS ports_degraded,
    ports.ports_gone AS ports_gone
FROM nodes
LEFT JOIN hosts ON hosts.node = nodes.node
LEFT JOIN gpus ON gpus.node = nodes.node
LEFT JOIN ports ON ports.node = nodes.node
LEFT JOIN faults ON faults.node = nodes.node
COMMENT 'One row per node: host processors, memory, swap and fullest disk (NULL: not read) beside its GPUs (NaN: not read) and ports (ports_gone: told of in the 7 days before, and no longer), open fault classes, seconds since it last said anything'
