-- The health of every GPU, node and rack as it stands, and why. What was taken out of the fleet has none.
CREATE OR REPLACE VIEW ${database}.verdicts AS
SELECT
    component,
    component_kind,
    health,
    rentable,
    action,
    arrayMap(reason -> concat(reason.effect, ': ', reason.text), reasons) AS why,
    arrayMap(reason -> reason.text, arrayFilter(reason -> reason.effect = 'warns', reasons)) AS early_warnings,
    since_at,
    round(date_diff('millisecond', since_at, greatest(since_at, now64(3, 'UTC'))) / 1000, 3) AS for_seconds,
    site,
    rack,
    node,
    gpu,
    reasons,
    decided_at,
    revision
FROM
(
    SELECT *
    FROM ${database}.verdict_revisions
    ORDER BY decided_at DESC, revision DESC
    -- two sites may both have a rack 1; a GPU or node that moves to another site is the same one
    LIMIT 1 BY component, if(component_kind = 'rack', site, '')
) AS newest
WHERE component NOT IN (SELECT component FROM ${database}.inventory WHERE removed)
COMMENT 'One row per GPU, node and rack: health (healthy, degraded, unhealthy, unknown), whether it may be rented, the action asked for, why (the weightiest reason first), early warnings, since when'
