-- What PDUs, coolers, meters and management controllers said, point by point.
CREATE OR REPLACE VIEW ${database}.facility_history AS
SELECT
    device,
    point,
    tick_at,
    value,
    unit,
    state,
    -- '' at the first reading
    ifNull(lagInFrame(toNullable(toString(state)), 1, '') OVER (
        PARTITION BY device, point, node ORDER BY tick_at ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
    ), 'unknown') AS state_before,
    state_before != '' AND ifNull(state, 'unknown') != state_before AS state_changed,
    device_kind,
    of_node,
    rack,
    site,
    source,
    node AS read_by
FROM ${database}.facility_points FINAL
COMMENT 'One row per device, point and reading: value with its unit, state, and whether the state differs from the reading before. NULL: not read'
