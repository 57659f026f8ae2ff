-- What happened to a GPU, and where it has been. Ask by serial: SELECT * FROM gpu_history WHERE gpu = '…' ORDER BY at
CREATE OR REPLACE VIEW ${database}.gpu_history AS
-- where it was: one row whenever its node, rack or slot differs from the sighting before
SELECT
    gpu,
    first_seen_at AS at,
    multiIf(removed, 'removed', before = '', 'seen', 'moved') AS entry,
    place_node AS node,
    rack,
    '' AS severity,
    '' AS action,
    multiIf(
        removed, 'left the fleet',
        before = '', concat('seen in ', place),
        concat('moved to ', place, ', was in ', before)
    ) AS text,
    '' AS id
FROM
(
    SELECT
        coalesce(gpu_serial, gpu_uuid, '') AS gpu,
        first_seen_at,
        rack,
        removed,
        coalesce(node, '') AS place_node,
        concat(coalesce(node, '?'), ' (rack ', rack, if(gpu_index IS NULL, '', concat(', index ', toString(gpu_index))), ')') AS place,
        lagInFrame(place, 1, '') OVER (PARTITION BY gpu ORDER BY first_seen_at ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS before,
        lagInFrame(removed, 1, false) OVER (PARTITION BY gpu ORDER BY first_seen_at ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) AS removed_before
    FROM ${database}.inventory_log FINAL
    -- what was declared about a GPU is no sighting of it, but better than nothing
    WHERE kind = 'gpu' AND gpu != ''
        AND (source = 'discovered' OR component NOT IN
            (SELECT component FROM ${database}.inventory_log WHERE kind = 'gpu' AND source = 'discovered'))
)
WHERE place != before OR removed != removed_before
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
COMMENT 'What happened to a GPU and where it has been, one row per entry: seen, moved, removed, hour, event, anomaly raised/cleared, fault opened/cleared, incident. Ask by serial and order by at.'
