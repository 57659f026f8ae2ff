-- Every incident as it stands now, or as it ended.
CREATE OR REPLACE VIEW ${database}.incidents AS
SELECT
    incident_id,
    state,
    severity,
    title,
    action,
    root,
    root_class,
    root_code,
    root_node,
    root_gpu,
    root_pci,
    site,
    racks,
    length(members) AS member_count,
    arrayCount(member -> member.role = 'symptom', members) AS symptom_count,
    first_at,
    last_at,
    cleared_at,
    round(date_diff('millisecond', first_at, coalesce(cleared_at, greatest(last_at, now64(3, 'UTC')))) / 1000, 3) AS duration_seconds,
    observed_at,
    paged_at,
    score,
    chance,
    reason,
    alternatives,
    jobs,
    acknowledged_by,
    merged_into,
    split_from,
    evidence,
    members,
    root_fault_id,
    decided_at,
    revision
FROM
(
    SELECT *
    FROM ${database}.incident_revisions
    ORDER BY revision DESC
    LIMIT 1 BY incident_id
) AS newest
LEFT JOIN
(
    SELECT incident_id, toNullable(min(decided_at)) AS paged_at
    FROM ${database}.incident_revisions
    WHERE page
    GROUP BY incident_id
) AS pages USING incident_id
COMMENT 'One row per incident: root, members, symptoms, action and duration (until now while it is open); paged_at is when it was decided to page, NULL where it did not; what else could explain it, jobs, who takes care of it'
