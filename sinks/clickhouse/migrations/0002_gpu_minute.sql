-- GPU metrics by minute, for spans of days and longer.
-- Which statistic of which metric is a choice, because each one costs at every insert: the mean where a level matters,
-- the extremes where harm is done by one (highest temperature, lowest clock, lowest number of links). NaN counts nowhere.

CREATE TABLE IF NOT EXISTS ${database}.gpu_minute_states
(
    gpu String CODEC(ZSTD(3)) COMMENT 'Serial of the GPU, its UUID where it has none',
    minute DateTime('UTC') CODEC(DoubleDelta, ZSTD(1)) COMMENT 'Begin of the minute, event time',
    site SimpleAggregateFunction(anyLast, LowCardinality(String)) COMMENT 'Data hall or region',
    rack SimpleAggregateFunction(anyLast, LowCardinality(String)) COMMENT 'Rack',
    node SimpleAggregateFunction(anyLast, LowCardinality(String)) COMMENT 'Node',
    samples SimpleAggregateFunction(sum, UInt64) CODEC(T64, ZSTD(1)) COMMENT 'Ticks in the minute',
    first_tick_at SimpleAggregateFunction(min, DateTime64(3, 'UTC')) CODEC(Delta, ZSTD(1)) COMMENT 'First tick in the minute',
    last_tick_at SimpleAggregateFunction(max, DateTime64(3, 'UTC')) CODEC(Delta, ZSTD(1)) COMMENT 'Last tick in the minute',
    throttle_reasons SimpleAggregateFunction(groupBitOr, UInt64) CODEC(T64, ZSTD(1)) COMMENT 'NVML clock event reasons met in the minute, a bit mask',
    temperature_celsius_avg AggregateFunction(avgIf, Float32, UInt8) CODEC(ZSTD(1)) COMMENT 'State of the mean: avgIfMerge',
    temperature_celsius_min SimpleAggregateFunction(min, Float32) CODEC(ZSTD(3)) COMMENT 'Lowest value; NaN: never read',
    temperature_celsius_max SimpleAggregateFunction(max, Float32) CODEC(ZSTD(3)) COMMENT 'Highest value; NaN: never read',
    memory_temperature_celsius_avg AggregateFunction(avgIf, Float32, UInt8) CODEC(ZSTD(1)) COMMENT 'State of the mean: avgIfMerge',
    memory_temperature_celsius_max SimpleAggregateFunction(max, Float32) CODEC(ZSTD(3)) COMMENT 'Highest value; NaN: never read',
    temperature_margin_celsius_min SimpleAggregateFunction(min, Float32) CODEC(ZSTD(3)) COMMENT 'Lowest value; NaN: never read',
    power_watts_avg AggregateFunction(avgIf, Float32, UInt8) CODEC(ZSTD(1)) COMMENT 'State of the mean: avgIfMerge',
    power_watts_min SimpleAggregateFunction(min, Float32) CODEC(ZSTD(3)) COMMENT 'Lowest value; NaN: never read',
    power_watts_max SimpleAggregateFunction(max, Float32) CODEC(ZSTD(3)) COMMENT 'Highest value; NaN: never read',
    sm_clock_mhz_avg AggregateFunction(avgIf, Float32, UInt8) CODEC(ZSTD(1)) COMMENT 'State of the mean: avgIfMerge',
    sm_clock_mhz_min SimpleAggregateFunction(min, Float32) CODEC(ZSTD(3)) COMMENT 'Lowest value; NaN: never read',
    memory_clock_mhz_min SimpleAggregateFunction(min, Float32) CODEC(ZSTD(3)) COMMENT 'Lowest value; NaN: never read',
    gpu_utilization_percent_avg AggregateFunction(avgIf, Float32, UInt8) CODEC(ZSTD(1)) COMMENT 'State of the mean: avgIfMerge',
    gpu_utilization_percent_min SimpleAggregateFunction(min, Float32) CODEC(ZSTD(3)) COMMENT 'Lowest value; NaN: never read',
    gpu_utilization_percent_max SimpleAggregateFunction(max, Float32) CODEC(ZSTD(3)) COMMENT 'Highest value; NaN: never read',
    memory_utilization_percent_avg AggregateFunction(avgIf, Float32, UInt8) CODEC(ZSTD(1)) COMMENT 'State of the mean: avgIfMerge',
    sm_active_percent_avg AggregateFunction(avgIf, Float32, UInt8) CODEC(ZSTD(1)) COMMENT 'State of the mean: avgIfMerge',
    tensor_active_percent_avg AggregateFunction(avgIf, Float32, UInt8) CODEC(ZSTD(1)) COMMENT 'State of the mean: avgIfMerge',
    dram_active_percent_avg AggregateFunction(avgIf, Float32, UInt8) CODEC(ZSTD(1)) COMMENT 'State of the mean: avgIfMerge',
    memory_used_bytes_avg AggregateFunction(avgIf, Float32, UInt8) CODEC(ZSTD(1)) COMMENT 'State of the mean: avgIfMerge',
    memory_used_bytes_max SimpleAggregateFunction(max, Float32) CODEC(ZSTD(3)) COMMENT 'Highest value; NaN: never read',
    fan_speed_percent_max SimpleAggregateFunction(max, Float32) CODEC(ZSTD(3)) COMMENT 'Highest value; NaN: never read',
    pcie_tx_bytes_per_second_avg AggregateFunction(avgIf, Float32, UInt8) CODEC(ZSTD(1)) COMMENT 'State of the mean: avgIfMerge',
    pcie_rx_bytes_per_second_avg AggregateFunction(avgIf, Float32, UInt8) CODEC(ZSTD(1)) COMMENT 'State of the mean: avgIfMerge',
    nvlink_tx_bytes_per_second_avg AggregateFunction(avgIf, Float32, UInt8) CODEC(ZSTD(1)) COMMENT 'State of the mean: avgIfMerge',
    nvlink_rx_bytes_per_second_avg AggregateFunction(avgIf, Float32, UInt8) CODEC(ZSTD(1)) COMMENT 'State of the mean: avgIfMerge',
    nvlink_links_active_min SimpleAggregateFunction(min, Float32) CODEC(ZSTD(3)) COMMENT 'Lowest value; NaN: never read',
    performance_state_max SimpleAggregateFunction(max, Float32) CODEC(ZSTD(3)) COMMENT 'Highest value; NaN: never read',
    process_count_max SimpleAggregateFunction(max, Float32) CODEC(ZSTD(3)) COMMENT 'Highest value; NaN: never read'
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(minute)
ORDER BY (gpu, minute)
SETTINGS non_replicated_deduplication_window = 10000
COMMENT 'States of the roll-up by minute; read gpu_minute and gpu_hour.';

CREATE MATERIALIZED VIEW IF NOT EXISTS ${database}.gpu_minute_roll TO ${database}.gpu_minute_states AS
SELECT
    gpu,
    toStartOfMinute(tick_at) AS minute,
    anyLast(site) AS site,
    anyLast(rack) AS rack,
    anyLast(node) AS node,
    count() AS samples,
    min(tick_at) AS first_tick_at,
    max(tick_at) AS last_tick_at,
    groupBitOr(if(throttle_reasons < 0, 0, toUInt64(throttle_reasons))) AS throttle_reasons,
    avgIfState(temperature_celsius, NOT isNaN(temperature_celsius)) AS temperature_celsius_avg,
    min(temperature_celsius) AS temperature_celsius_min,
    max(temperature_celsius) AS temperature_celsius_max,
    avgIfState(memory_temperature_celsius, NOT isNaN(memory_temperature_celsius)) AS memory_temperature_celsius_avg,
    max(memory_temperature_celsius) AS memory_temperature_celsius_max,
    min(temperature_margin_celsius) AS temperature_margin_celsius_min,
    avgIfState(power_watts, NOT isNaN(power_watts)) AS power_watts_avg,
    min(power_watts) AS power_watts_min,
    max(power_watts) AS power_watts_max,
    avgIfState(sm_clock_mhz, NOT isNaN(sm_clock_mhz)) AS sm_clock_mhz_avg,
    min(sm_clock_mhz) AS sm_clock_mhz_min,
    min(memory_clock_mhz) AS memory_clock_mhz_min,
    avgIfState(gpu_utilization_percent, NOT isNaN(gpu_utilization_percent)) AS gpu_utilization_percent_avg,
    min(gpu_utilization_percent) AS gpu_utilization_percent_min,
    max(gpu_utilization_percent) AS gpu_utilization_percent_max,
    avgIfState(memory_utilization_percent, NOT isNaN(memory_utilization_percent)) AS memory_utilization_percent_avg,
    avgIfState(sm_active_percent, NOT isNaN(sm_active_percent)) AS sm_active_percent_avg,
    avgIfState(tensor_active_percent, NOT isNaN(tensor_active_percent)) AS tensor_active_percent_avg,
    avgIfState(dram_active_percent, NOT isNaN(dram_active_percent)) AS dram_active_percent_avg,
    avgIfState(memory_used_bytes, NOT isNaN(memory_used_bytes)) AS memory_used_bytes_avg,
    max(memory_used_bytes) AS memory_used_bytes_max,
    max(fan_speed_percent) AS fan_speed_percent_max,
    avgIfState(pcie_tx_bytes_per_second, NOT isNaN(pcie_tx_bytes_per_second)) AS pcie_tx_bytes_per_second_avg,
    avgIfState(pcie_rx_bytes_per_second, NOT isNaN(pcie_rx_bytes_per_second)) AS pcie_rx_bytes_per_second_avg,
    avgIfState(nvlink_tx_bytes_per_second, NOT isNaN(nvlink_tx_bytes_per_second)) AS nvlink_tx_bytes_per_second_avg,
    avgIfState(nvlink_rx_bytes_per_second, NOT isNaN(nvlink_rx_bytes_per_second)) AS nvlink_rx_bytes_per_second_avg,
    min(nvlink_links_active) AS nvlink_links_active_min,
    max(performance_state) AS performance_state_max,
    max(process_count) AS process_count_max
FROM ${database}.gpu_samples
GROUP BY gpu, minute;
