-- The host of each node, reading by reading.
CREATE OR REPLACE VIEW ${database}.node_history AS
SELECT
    node,
    tick_at,
    rack,
    site,
    cpu_utilization_percent,
    cpu_iowait_percent,
    cpu_steal_percent,
    cpu_count,
    cpu_temperature_celsius,
    load_1m,
    load_5m,
    load_15m,
    round(100 * memory_used_bytes / nullIf(memory_total_bytes, 0), 2) AS memory_used_percent,
    memory_used_bytes,
    memory_available_bytes,
    memory_total_bytes,
    round(100 * swap_used_bytes / nullIf(swap_total_bytes, 0), 2) AS swap_used_percent,
    swap_used_bytes,
    swap_total_bytes,
    swap_in_bytes_per_second,
    swap_out_bytes_per_second,
    cpu_pressure_some_percent,
    memory_pressure_some_percent,
    memory_pressure_full_percent,
    io_pressure_some_percent,
    io_pressure_full_percent,
    oom_kills,
    -- since the reading before; counts from nothing after a boot
    anyLast(oom_kills) OVER (
        PARTITION BY node, source ORDER BY tick_at ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    ) AS oom_kills_before,
    multiIf(oom_kills_before IS NULL, NULL, oom_kills < oom_kills_before, oom_kills, oom_kills - oom_kills_before) AS oom_kills_growth,
    process_count,
    uptime_s,
    disks,
    networks,
    source,
    boot_id
FROM ${database}.node_samples FINAL
COMMENT 'One row per host and reading: processors, memory, swap, pressure, kills for lack of memory since the reading before; disks and networks as arrays. NULL: not read'
