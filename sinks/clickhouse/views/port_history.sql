-- InfiniBand and RoCE ports, reading by reading, with what each counter added since the reading before.
-- A counter that fell was reset (perfquery -R, the driver was loaded again): what it shows has come since then.
-- Some IBTA counters stick at their highest value (symbol_error at 65535 on old cards): they stop growing there.
CREATE OR REPLACE VIEW ${database}.port_history AS
WITH
    lagInFrame(counters) OVER (
        PARTITION BY node, device, port, source ORDER BY tick_at ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    ) AS counters_before
SELECT
    node,
    device,
    port,
    tick_at,
    rack,
    site,
    state,
    physical_state,
    rate_gbps,
    expected_gbps,
    rate_name,
    degraded,
    reason,
    mapFilter(
        (name, added) -> added > 0,
        mapApply(
            (name, now) -> (name, multiIf(NOT mapContains(counters_before, name), 0, now < counters_before[name], now, now - counters_before[name])),
            counters
        )
    ) AS growth,
    -- how often the link went down since the reading before
    growth['link_downed'] AS flaps,
    counters,
    link_layer,
    card,
    guid,
    firmware,
    source,
    boot_id
FROM ${database}.port_samples FINAL
COMMENT 'One row per InfiniBand or RoCE port and reading: state, rate beside what it should be, every counter, and in growth those that rose since the reading before, by how much'
