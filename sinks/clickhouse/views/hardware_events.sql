-- Hardware events, each once.
CREATE OR REPLACE VIEW ${database}.hardware_events AS
SELECT
    event_at, site, rack, node, gpu, pci, link, kind, code, severity, action, count, raw, last_raw, details,
    source, observed_at, boot_id, sequence, event_id
FROM ${database}.hardware_event_log FINAL
COMMENT 'What happened once on a node (XID, SXid, lost GPU, link flap, …), with its raw text, each once'
