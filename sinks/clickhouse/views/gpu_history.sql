-- What happened to a GPU, and where it has been. Ask by serial: SELECT * FROM gpu_history WHERE gpu = '…' ORDER BY at
CREATE OR REPLACE VIEW ${database}.gpu_history AS
-- where it was: its stays (gpu_places); the driver's index is shown, and one that shifts is no move
SELECT
    gpu,
    first_seen_at AS at,
    if(stay = 1, 'seen', 'moved') AS entry,
    node,
    toString(rack) AS rack,
    '' AS severity,
    '' AS action,
    multiIf(
        stay = 1, concat('seen in ', place),
        node = node_before, concat('moved to ', seat, ' of ', place, ', was in ', seat_before),
        concat('moved to ', place, ', was in ', place_before)
    ) AS text,
    '' AS id
FROM
(
    SELECT
        gpu, stay, first_seen_at, node, rack,
        concat(if(node = '', '?', node), ' (rack ', rack, if(gpu_index IS NULL, '', concat(', index ', toString(gpu_index))), ')') AS place,
        concat('slot ', ifNull(toString(slot), '?'), ' at ', ifNull(pci, '?')) AS seat,
        lagInFrame(node) OVER before AS node_before,
        lagInFrame(place) OVER before AS place_before,
        lagInFrame(seat) OVER before AS seat_before
    FROM ${database}.gpu_places
    WHERE gpu != ''
    WINDOW before AS (PARTITION BY gpu ORDER BY stay ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
)
UNION ALL
-- when it left the fleet, which only a declaration can say, and when somebody declared or found it again
SELECT
    gpu,
    at,
    if(removed, 'removed', 'seen') AS entry,
    place_node AS node,
    place_rack AS rack,
    '' AS severity,
    '' AS action,
    if(removed, 'left the fleet', 'back in the fleet') AS text,
    '' AS id
FROM
(
    SELECT
        substring(component, 5) AS gpu,
        at,
        removed,
        toString(ifNull(node, '')) AS place_node,
        toString(rack) AS place_rack,
        lagInFrame(removed, 1, false) OVER before AS removed_before
    FROM (SELECT * FROM ${database}.inventory_log FINAL WHERE kind = 'gpu')
    ARRAY JOIN arrayDistinct([first_seen_at, last_seen_at]) AS at
    WINDOW before AS (PARTITION BY component ORDER BY at, removed ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
)
WHERE removed != removed_before
UNION ALL
-- how it ran: one row per hour, from the roll-up
SELECT
    gpu,
    CAST(hour, 'DateTime64(3, \'UTC\')') AS at,
    'hour' AS entry,
    node,
    rack,
    '' AS severity,
    '' AS action,
    concat(
        toString(samples), ' samples, ',
        toString(round(temperature_celsius_avg)), ' °C (highest ', toString(round(temperature_celsius_max)), '), ',
        toString(round(power_watts_avg)), ' W, ',
        toString(round(gpu_utilization_percent_avg)), '% busy'
    ) AS text,
    '' AS id
FROM ${database}.gpu_hour
UNION ALL
SELECT
    assumeNotNull(gpu) AS gpu,
    event_at AS at,
    'event' AS entry,
    node,
    rack,
    severity,
    action,
    concat(kind, if(code IS NULL, '', concat(' ', toString(code))), if(count > 1, concat(' ×', toString(count)), ''), if(raw = '', '', concat(': ', raw))) AS text,
    event_id AS id
FROM ${database}.hardware_events
WHERE gpu IS NOT NULL
UNION ALL
SELECT
    assumeNotNull(gpu) AS gpu,
    tick_at AS at,
    concat('anomaly ', state) AS entry,
    coalesce(node, '') AS node,
    rack,
    severity,
    action,
    reason AS text,
    anomaly_id AS id
FROM ${database}.anomalies
WHERE gpu IS NOT NULL
UNION ALL
SELECT
    assumeNotNull(gpu) AS gpu,
    first_at AS at,
    'fault opened' AS entry,
    coalesce(node, '') AS node,
    rack,
    severity,
    action,
    concat(fault_class, if(code IS NULL, '', concat(' ', toString(code))), ': ', reason) AS text,
    fault_id AS id
FROM ${database}.fault_history
WHERE gpu IS NOT NULL
UNION ALL
SELECT
    assumeNotNull(gpu) AS gpu,
    assumeNotNull(cleared_at) AS at,
    'fault cleared' AS entry,
    coalesce(node, '') AS node,
    rack,
    severity,
    action,
    concat(fault_class, ' after ', toString(duration_seconds), ' s, ', toString(count), ' occurrences') AS text,
    fault_id AS id
FROM ${database}.fault_history
WHERE gpu IS NOT NULL AND cleared_at IS NOT NULL
UNION ALL
SELECT
    substring(member.component, 5) AS gpu,
    first_at AS at,
    'incident' AS entry,
    if(member.role = 'root', coalesce(root_node, ''), '') AS node,
    if(length(racks) = 1, racks[1], '') AS rack,
    severity,
    if(member.role = 'root', action, '') AS action,
    concat(member.role, ' of: ', title) AS text,
    incident_id AS id
FROM ${database}.incidents
ARRAY JOIN members AS member
WHERE startsWith(member.component, 'gpu:')
UNION ALL
SELECT
    assumeNotNull(gpu) AS gpu,
    decided_at AS at,
    'verdict' AS entry,
    coalesce(node, '') AS node,
    rack,
    '' AS severity,
    action,
    concat(
        if(health_before IN ('', health), '', concat(health_before, ' → ')), health,
        if(rentable, '', ', not to be rented'),
        if(empty(reasons), '', concat(': ', reasons[1].text)),
        if(length(reasons) > 1, concat(' (and ', toString(length(reasons) - 1), ' more)'), '')
    ) AS text,
    '' AS id
FROM ${database}.verdict_history
WHERE gpu IS NOT NULL
COMMENT 'What happened to a GPU and where it has been, one row per entry: seen, moved, removed, hour, event, anomaly raised/cleared, fault opened/cleared, incident, verdict. Ask by serial and order by at.'
