-- Every fault as it stands now, or as it ended.
CREATE OR REPLACE VIEW ${database}.fault_history AS
SELECT
    component,
    component_kind,
    fault_class,
    code,
    severity,
    action,
    state,
    first_at,
    worsened_at,
    last_at,
    cleared_at,
    round(date_diff('millisecond', first_at, coalesce(cleared_at, greatest(last_at, now64(3, 'UTC')))) / 1000, 3) AS duration_seconds,
    count,
    reason,
    rule,
    action_rule,
    recurrence,
    flapping,
    job,
    maintenance,
    acknowledged_by,
    acknowledged_at,
    snoozed_until,
    evidence,
    site,
    rack,
    node,
    gpu,
    pci,
    observed_at,
    fault_id,
    revision
FROM
(
    SELECT *
    FROM ${database}.fault_revisions
    ORDER BY revision DESC
    LIMIT 1 BY fault_id
) AS newest
COMMENT 'One row per fault: the newest revision, with duration (until now while it is open), class, action and what chose it, how often it came back, who takes care of it, evidence'
