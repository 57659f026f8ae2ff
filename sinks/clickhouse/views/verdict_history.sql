-- Every change of the health of a component, and what it was before. Ask by component and order by decided_at, revision.
CREATE OR REPLACE VIEW ${database}.verdict_history AS
SELECT
    component,
    decided_at,
    -- '' at the first verdict
    lagInFrame(toString(health)) OVER before AS health_before,
    health,
    rentable,
    action,
    arrayMap(reason -> concat(reason.effect, ': ', reason.text), reasons) AS why,
    since_at,
    component_kind,
    site,
    rack,
    node,
    gpu,
    reasons,
    revision
FROM ${database}.verdict_revisions FINAL
WINDOW before AS (PARTITION BY component ORDER BY decided_at, revision ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
COMMENT 'One row per change of a verdict: health before and after, whether it may be rented, the action asked for, why (the weightiest reason first), since when'
