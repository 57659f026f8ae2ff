-- Fast GPU metrics: the way in, and one row per GPU per tick.

-- The way in takes one Avro container block of `gpu.samples` as it is (INSERT … FORMAT Avro): the columns are the fields
-- of schemas/gpu.samples.avsc. Nothing is kept here; a materialized view spreads the arrays over GPUs.
-- A broken constraint refuses the whole block; its name is the reason that the bad record's dead letter carries.
CREATE TABLE IF NOT EXISTS ${database}.gpu_samples_in
(
    site LowCardinality(String),
    rack LowCardinality(String),
    node LowCardinality(String),
    boot_id LowCardinality(String),
    sequence Int64,
    tick_ms Int64,
    observed_ms Int64,
    interval_ms Int32 DEFAULT 1000,
    gpus Array(String),
    gpu_index Array(Int32),
    temperature_celsius Array(Float32),
    memory_temperature_celsius Array(Float32),
    temperature_margin_celsius Array(Float32),
    power_watts Array(Float32),
    power_average_watts Array(Float32),
    sm_clock_mhz Array(Float32),
    memory_clock_mhz Array(Float32),
    gpu_utilization_percent Array(Float32),
    memory_utilization_percent Array(Float32),
    sm_active_percent Array(Float32),
    tensor_active_percent Array(Float32),
    dram_active_percent Array(Float32),
    memory_used_bytes Array(Float32),
    bar1_used_bytes Array(Float32),
    fan_speed_percent Array(Float32),
    pcie_tx_bytes_per_second Array(Float32),
    pcie_rx_bytes_per_second Array(Float32),
    nvlink_tx_bytes_per_second Array(Float32),
    nvlink_rx_bytes_per_second Array(Float32),
    nvlink_links_active Array(Float32),
    performance_state Array(Float32),
    encoder_utilization_percent Array(Float32),
    decoder_utilization_percent Array(Float32),
    process_count Array(Float32),
    throttle_reasons Array(Int64),
    -- an empty array says that no GPU of the node offers the metric; any other length is a broken record
    -- (one lambda and not 25 conditions: each of those would cost at every insert)
    CONSTRAINT wrong_gpu_count CHECK
        length(gpu_index) = length(gpus)
        AND arrayAll(entries -> entries = 0 OR entries = length(gpus), [
            length(temperature_celsius), length(memory_temperature_celsius), length(temperature_margin_celsius),
            length(power_watts), length(power_average_watts), length(sm_clock_mhz), length(memory_clock_mhz),
            length(gpu_utilization_percent), length(memory_utilization_percent), length(sm_active_percent),
            length(tensor_active_percent), length(dram_active_percent), length(memory_used_bytes),
            length(bar1_used_bytes), length(fan_speed_percent), length(pcie_tx_bytes_per_second),
            length(pcie_rx_bytes_per_second), length(nvlink_tx_bytes_per_second),
            length(nvlink_rx_bytes_per_second), length(nvlink_links_active), length(performance_state),
            length(encoder_utilization_percent), length(decoder_utilization_percent), length(process_count),
            length(throttle_reasons)
        ]),
    -- such a row would outlive every retention and be the newest for ever; a day allows for a clock that is badly off
    CONSTRAINT time_in_future CHECK tick_ms < toUnixTimestamp64Milli(now64(3)) + 86400000,
    -- 2000-01-01: a clock that was never set
    CONSTRAINT time_in_past CHECK tick_ms >= 946684800000
)
ENGINE = Null
COMMENT 'The way in of topic gpu.samples (Avro fields as they are). Keeps nothing: read gpu_samples.';

-- Ordered by GPU, because history is asked for by GPU, and a GPU's neighbouring values compress well.
-- Codecs are measured: sinks/clickhouse/README.md says on what and how.
-- The window of remembered insert tokens must outlast the time between a crash and the redo of its batch.
CREATE TABLE IF NOT EXISTS ${database}.gpu_samples
(
    gpu String CODEC(ZSTD(3)) COMMENT 'Serial of the GPU, its UUID where it has none',
    tick_at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)) COMMENT 'Event time: the tick, aligned to the interval',
    site LowCardinality(String) COMMENT 'Data hall or region',
    rack LowCardinality(String) COMMENT 'Rack',
    node LowCardinality(String) COMMENT 'Node in which the GPU was at this tick',
    gpu_index Int16 CODEC(ZSTD(1)) COMMENT 'The driver''s index: where it sat, not who it is',
    boot_id LowCardinality(String) COMMENT 'The node''s boot; sequence counts within it',
    sequence Int64 CODEC(DoubleDelta, ZSTD(1)) COMMENT 'Counts the node''s records since it booted: a gap is a loss',
    interval_ms UInt32 CODEC(ZSTD(1)) COMMENT 'The period at which the node samples',
    observed_at DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)) COMMENT 'When the agent had read everything',
    temperature_celsius Float32 CODEC(Gorilla, ZSTD(3)) COMMENT 'GPU core temperature; NaN: not read',
    memory_temperature_celsius Float32 CODEC(Gorilla, ZSTD(3)) COMMENT 'HBM temperature; NaN: not read',
    temperature_margin_celsius Float32 CODEC(Gorilla, ZSTD(3)) COMMENT 'Degrees left until the GPU slows itself down; NaN: not read',
    power_watts Float32 CODEC(FPC(12), ZSTD(1)) COMMENT 'Power drawn now; NaN: not read',
    power_average_watts Float32 CODEC(FPC(12), ZSTD(1)) COMMENT 'Power drawn, averaged by the driver over one second; NaN: not read',
    sm_clock_mhz Float32 CODEC(ZSTD(6)) COMMENT 'Streaming multiprocessor clock; NaN: not read',
    memory_clock_mhz Float32 CODEC(ZSTD(3)) COMMENT 'Memory clock; NaN: not read',
    gpu_utilization_percent Float32 CODEC(ZSTD(3)) COMMENT 'Share of the last sample period in which a kernel ran; NaN: not read',
    memory_utilization_percent Float32 CODEC(ZSTD(6)) COMMENT 'Share of the last sample period in which memory was read or written; NaN: not read',
    sm_active_percent Float32 CODEC(ZSTD(6)) COMMENT 'Share of cycles with at least one warp resident, averaged over SMs (GPM); NaN: not read',
    tensor_active_percent Float32 CODEC(ZSTD(6)) COMMENT 'Share of cycles in which the tensor pipes were active (GPM); NaN: not read',
    dram_active_percent Float32 CODEC(ZSTD(6)) COMMENT 'Share of cycles in which memory moved data (GPM); NaN: not read',
    memory_used_bytes Float32 CODEC(ZSTD(3)) COMMENT 'Frame buffer in use; NaN: not read',
    bar1_used_bytes Float32 CODEC(ZSTD(3)) COMMENT 'BAR1 aperture in use; NaN: not read',
    fan_speed_percent Float32 CODEC(ZSTD(3)) COMMENT 'Fan speed as a share of its maximum; NaN for passively cooled boards',
    pcie_tx_bytes_per_second Float32 CODEC(ZSTD(3)) COMMENT 'PCIe bytes sent by the GPU per second; NaN: not read',
    pcie_rx_bytes_per_second Float32 CODEC(ZSTD(3)) COMMENT 'PCIe bytes received by the GPU per second; NaN: not read',
    nvlink_tx_bytes_per_second Float32 CODEC(ZSTD(3)) COMMENT 'NVLink bytes sent per second, all links; NaN: not read',
    nvlink_rx_bytes_per_second Float32 CODEC(ZSTD(3)) COMMENT 'NVLink bytes received per second, all links; NaN: not read',
    nvlink_links_active Float32 CODEC(ZSTD(3)) COMMENT 'NVLink links that are up; NaN: not read',
    performance_state Float32 CODEC(ZSTD(3)) COMMENT 'P-state: 0 is the fastest; NaN: not read',
    encoder_utilization_percent Float32 CODEC(ZSTD(3)) COMMENT 'Video encoder utilisation; NaN: not read',
    decoder_utilization_percent Float32 CODEC(ZSTD(3)) COMMENT 'Video decoder utilisation; NaN: not read',
    process_count Float32 CODEC(ZSTD(3)) COMMENT 'Compute processes with a context on the GPU; NaN: not read',
    throttle_reasons Int64 CODEC(T64, ZSTD(1)) COMMENT 'NVML clock event reasons, a bit mask; -1 where unknown'
)
ENGINE = MergeTree
PARTITION BY toYYYYMMDD(tick_at)
ORDER BY (gpu, tick_at)
SETTINGS non_replicated_deduplication_window = 10000
COMMENT 'One row per GPU per tick, exactly once. A metric that was not read is NaN, never 0. For longer spans use gpu_minute and gpu_hour.';

-- arrayResize fills the empty arrays; all others have the right length, or the constraint had refused them.
CREATE MATERIALIZED VIEW IF NOT EXISTS ${database}.gpu_samples_decode TO ${database}.gpu_samples AS
SELECT
    gpu,
    fromUnixTimestamp64Milli(tick_ms, 'UTC') AS tick_at,
    site,
    rack,
    node,
    gpu_index_ AS gpu_index,
    boot_id,
    sequence,
    interval_ms,
    fromUnixTimestamp64Milli(observed_ms, 'UTC') AS observed_at,
    temperature_celsius_ AS temperature_celsius,
    memory_temperature_celsius_ AS memory_temperature_celsius,
    temperature_margin_celsius_ AS temperature_margin_celsius,
    power_watts_ AS power_watts,
    power_average_watts_ AS power_average_watts,
    sm_clock_mhz_ AS sm_clock_mhz,
    memory_clock_mhz_ AS memory_clock_mhz,
    gpu_utilization_percent_ AS gpu_utilization_percent,
    memory_utilization_percent_ AS memory_utilization_percent,
    sm_active_percent_ AS sm_active_percent,
    tensor_active_percent_ AS tensor_active_percent,
    dram_active_percent_ AS dram_active_percent,
    memory_used_bytes_ AS memory_used_bytes,
    bar1_used_bytes_ AS bar1_used_bytes,
    fan_speed_percent_ AS fan_speed_percent,
    pcie_tx_bytes_per_second_ AS pcie_tx_bytes_per_second,
    pcie_rx_bytes_per_second_ AS pcie_rx_bytes_per_second,
    nvlink_tx_bytes_per_second_ AS nvlink_tx_bytes_per_second,
    nvlink_rx_bytes_per_second_ AS nvlink_rx_bytes_per_second,
    nvlink_links_active_ AS nvlink_links_active,
    performance_state_ AS performance_state,
    encoder_utilization_percent_ AS encoder_utilization_percent,
    decoder_utilization_percent_ AS decoder_utilization_percent,
    process_count_ AS process_count,
    throttle_reasons_ AS throttle_reasons
FROM ${database}.gpu_samples_in
ARRAY JOIN
    gpus AS gpu,
    gpu_index AS gpu_index_,
    arrayResize(temperature_celsius, length(gpus), toFloat32(nan)) AS temperature_celsius_,
    arrayResize(memory_temperature_celsius, length(gpus), toFloat32(nan)) AS memory_temperature_celsius_,
    arrayResize(temperature_margin_celsius, length(gpus), toFloat32(nan)) AS temperature_margin_celsius_,
    arrayResize(power_watts, length(gpus), toFloat32(nan)) AS power_watts_,
    arrayResize(power_average_watts, length(gpus), toFloat32(nan)) AS power_average_watts_,
    arrayResize(sm_clock_mhz, length(gpus), toFloat32(nan)) AS sm_clock_mhz_,
    arrayResize(memory_clock_mhz, length(gpus), toFloat32(nan)) AS memory_clock_mhz_,
    arrayResize(gpu_utilization_percent, length(gpus), toFloat32(nan)) AS gpu_utilization_percent_,
    arrayResize(memory_utilization_percent, length(gpus), toFloat32(nan)) AS memory_utilization_percent_,
    arrayResize(sm_active_percent, length(gpus), toFloat32(nan)) AS sm_active_percent_,
    arrayResize(tensor_active_percent, length(gpus), toFloat32(nan)) AS tensor_active_percent_,
    arrayResize(dram_active_percent, length(gpus), toFloat32(nan)) AS dram_active_percent_,
    arrayResize(memory_used_bytes, length(gpus), toFloat32(nan)) AS memory_used_bytes_,
    arrayResize(bar1_used_bytes, length(gpus), toFloat32(nan)) AS bar1_used_bytes_,
    arrayResize(fan_speed_percent, length(gpus), toFloat32(nan)) AS fan_speed_percent_,
    arrayResize(pcie_tx_bytes_per_second, length(gpus), toFloat32(nan)) AS pcie_tx_bytes_per_second_,
    arrayResize(pcie_rx_bytes_per_second, length(gpus), toFloat32(nan)) AS pcie_rx_bytes_per_second_,
    arrayResize(nvlink_tx_bytes_per_second, length(gpus), toFloat32(nan)) AS nvlink_tx_bytes_per_second_,
    arrayResize(nvlink_rx_bytes_per_second, length(gpus), toFloat32(nan)) AS nvlink_rx_bytes_per_second_,
    arrayResize(nvlink_links_active, length(gpus), toFloat32(nan)) AS nvlink_links_active_,
    arrayResize(performance_state, length(gpus), toFloat32(nan)) AS performance_state_,
    arrayResize(encoder_utilization_percent, length(gpus), toFloat32(nan)) AS encoder_utilization_percent_,
    arrayResize(decoder_utilization_percent, length(gpus), toFloat32(nan)) AS decoder_utilization_percent_,
    arrayResize(process_count, length(gpus), toFloat32(nan)) AS process_count_,
    arrayResize(throttle_reasons, length(gpus), toInt64(-1)) AS throttle_reasons_;

-- What each node said last, for `fleet_now`: small, whatever the length of the history. A node whose list of GPUs
-- changed keeps a row for the old list, so a GPU that vanished is still known with the time it was last seen.
CREATE TABLE IF NOT EXISTS ${database}.node_last
(
    node String COMMENT 'Node',
    gpus Array(String) COMMENT 'The GPUs it listed; the other arrays have one entry for each',
    site LowCardinality(String) COMMENT 'Data hall or region',
    rack LowCardinality(String) COMMENT 'Rack',
    tick_at DateTime64(3, 'UTC') COMMENT 'The last tick with this list of GPUs',
    observed_at DateTime64(3, 'UTC') COMMENT 'When the agent had read everything',
    gpu_index Array(Int32) COMMENT 'The driver''s index of each GPU',
    temperature_celsius Array(Float32) COMMENT 'GPU core temperature',
    memory_temperature_celsius Array(Float32) COMMENT 'HBM temperature',
    power_watts Array(Float32) COMMENT 'Power drawn',
    sm_clock_mhz Array(Float32) COMMENT 'Streaming multiprocessor clock',
    gpu_utilization_percent Array(Float32) COMMENT 'Share of time in which a kernel ran',
    memory_used_bytes Array(Float32) COMMENT 'Frame buffer in use',
    nvlink_links_active Array(Float32) COMMENT 'NVLink links that are up',
    throttle_reasons Array(Int64) COMMENT 'NVML clock event reasons, a bit mask; -1 where unknown'
)
ENGINE = ReplacingMergeTree(tick_at)
ORDER BY (node, gpus)
COMMENT 'The last tick of each node and list of GPUs; read fleet_now.';

CREATE MATERIALIZED VIEW IF NOT EXISTS ${database}.node_last_decode TO ${database}.node_last AS
SELECT
    node,
    gpus,
    site,
    rack,
    fromUnixTimestamp64Milli(tick_ms, 'UTC') AS tick_at,
    fromUnixTimestamp64Milli(observed_ms, 'UTC') AS observed_at,
    gpu_index,
    arrayResize(temperature_celsius, length(gpus), toFloat32(nan)) AS temperature_celsius,
    arrayResize(memory_temperature_celsius, length(gpus), toFloat32(nan)) AS memory_temperature_celsius,
    arrayResize(power_watts, length(gpus), toFloat32(nan)) AS power_watts,
    arrayResize(sm_clock_mhz, length(gpus), toFloat32(nan)) AS sm_clock_mhz,
    arrayResize(gpu_utilization_percent, length(gpus), toFloat32(nan)) AS gpu_utilization_percent,
    arrayResize(memory_used_bytes, length(gpus), toFloat32(nan)) AS memory_used_bytes,
    arrayResize(nvlink_links_active, length(gpus), toFloat32(nan)) AS nvlink_links_active,
    arrayResize(throttle_reasons, length(gpus), toInt64(-1)) AS throttle_reasons
FROM ${database}.gpu_samples_in
WHERE notEmpty(gpus);
