-- The slow counters of each GPU, reading by reading, with what was added since the reading before.
--
-- A counter that fell was reset (the driver was loaded again, the GPU reset): what it shows has come since then. A reading
-- that is missing is skipped: growth is counted from the last value that was read. The first reading has no growth (NaN).
CREATE OR REPLACE VIEW ${database}.gpu_counter_history AS
WITH
    [
        ecc_aggregate_correctable, ecc_aggregate_uncorrectable, ecc_volatile_correctable, ecc_volatile_uncorrectable,
        ecc_aggregate_dram_correctable, ecc_aggregate_dram_uncorrectable, ecc_aggregate_sram_correctable,
        ecc_aggregate_sram_uncorrectable, row_remap_correctable, row_remap_uncorrectable, retired_pages_single_bit,
        retired_pages_double_bit, pcie_replays, pcie_replay_rollovers, nvlink_crc_flit_errors, nvlink_crc_data_errors,
        nvlink_replays, nvlink_recoveries, nvlink_recoveries_failed, nvlink_symbol_errors, nvlink_effective_errors,
        throttled_sw_power_cap_us, throttled_sw_thermal_us, throttled_hw_thermal_us, throttled_hw_power_brake_us,
        energy_joules
    ] AS counters,
    arrayMap(
        (now, before) -> multiIf(isNaN(now) OR before IS NULL, nan, now < before, now, now - assumeNotNull(before)),
        counters,
        arrayResize(
            anyLastForEach(arrayMap(now -> if(isNaN(now), NULL, now), counters)) OVER (
                PARTITION BY gpu, source ORDER BY tick_at ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ),
            length(counters),
            NULL
        )
    ) AS growth
SELECT
    gpu,
    tick_at,
    node,
    rack,
    gpu_index,
    source,
    -- over the GPU's life where it keeps that, else since the driver loaded
    if(isNaN(growth[1]), growth[3], growth[1]) AS ecc_correctable_growth,
    if(isNaN(growth[2]), growth[4], growth[2]) AS ecc_uncorrectable_growth,
    growth[5] AS ecc_dram_correctable_growth,
    growth[6] AS ecc_dram_uncorrectable_growth,
    growth[7] AS ecc_sram_correctable_growth,
    growth[8] AS ecc_sram_uncorrectable_growth,
    growth[9] AS row_remap_correctable_growth,
    growth[10] AS row_remap_uncorrectable_growth,
    growth[11] AS retired_pages_single_bit_growth,
    growth[12] AS retired_pages_double_bit_growth,
    growth[13] AS pcie_replays_growth,
    growth[14] AS pcie_replay_rollovers_growth,
    growth[15] AS nvlink_crc_flit_errors_growth,
    growth[16] AS nvlink_crc_data_errors_growth,
    growth[17] AS nvlink_replays_growth,
    growth[18] AS nvlink_recoveries_growth,
    growth[19] AS nvlink_recoveries_failed_growth,
    growth[20] AS nvlink_symbol_errors_growth,
    growth[21] AS nvlink_effective_errors_growth,
    growth[22] AS throttled_sw_power_cap_us_growth,
    growth[23] AS throttled_sw_thermal_us_growth,
    growth[24] AS throttled_hw_thermal_us_growth,
    growth[25] AS throttled_hw_power_brake_us_growth,
    growth[26] AS energy_joules_growth,
    if(isNaN(pcie_width) OR isNaN(pcie_width_max), NULL, pcie_width < pcie_width_max) AS pcie_width_below_max,
    -- lower while idle, on purpose: counts where the GPU works
    if(isNaN(pcie_generation) OR isNaN(pcie_generation_max), NULL, pcie_generation < pcie_generation_max) AS pcie_generation_below_max,
    pcie_width,
    pcie_width_max,
    pcie_generation,
    pcie_generation_max,
    ecc_aggregate_correctable,
    ecc_aggregate_uncorrectable,
    ecc_volatile_correctable,
    ecc_volatile_uncorrectable,
    ecc_sram_threshold_exceeded,
    row_remap_correctable,
    row_remap_uncorrectable,
    row_remap_pending,
    row_remap_failure,
    row_remap_banks_none,
    retired_pages_pending,
    pcie_replays,
    nvlink_replays,
    nvlink_recoveries,
    nvlink_recoveries_failed,
    last_xid,
    power_limit_watts,
    mig_mode,
    ecc_mode,
    fabric_state,
    fabric_health,
    recovery_action,
    site,
    boot_id
FROM ${database}.gpu_counters FINAL
COMMENT 'One row per GPU and reading of its slow counters, with what each added since the reading before (…_growth; NaN: not known), resets handled. Ask by gpu and order by tick_at.'
