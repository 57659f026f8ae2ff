-- Detector findings, each once raised and once cleared.
CREATE OR REPLACE VIEW ${database}.anomalies AS
SELECT
    tick_at, begin_at, state, severity, action, site, rack, node, gpu, component, detector, rule, metric, value,
    `limit`, fault_class, reason, anomaly_id
FROM ${database}.anomaly_log FINAL
COMMENT 'What the detectors found on samples: one row when raised, one when cleared'
