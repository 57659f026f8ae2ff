-- The network interfaces of each node, reading by reading, with the errors and drops since the reading before.
CREATE OR REPLACE VIEW ${database}.network_history AS
WITH
    [
        tupleElement(network, 'receive_errors'), tupleElement(network, 'send_errors'),
        tupleElement(network, 'receive_drops'), tupleElement(network, 'send_drops')
    ] AS counters,
    arrayMap(
        (now, before) -> multiIf(now IS NULL OR before IS NULL, NULL, now < before, now, now - before),
        counters,
        arrayResize(
            anyLastForEach(counters) OVER (
                PARTITION BY node, tupleElement(network, 'name'), source
                ORDER BY tick_at
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ),
            length(counters),
            NULL
        )
    ) AS growth
SELECT
    node,
    tupleElement(network, 'name') AS name,
    tick_at,
    rack,
    site,
    tupleElement(network, 'up') AS up,
    tupleElement(network, 'speed_mbps') AS speed_mbps,
    tupleElement(network, 'receive_bytes_per_second') AS receive_bytes_per_second,
    tupleElement(network, 'send_bytes_per_second') AS send_bytes_per_second,
    growth[1] AS receive_errors_growth,
    growth[2] AS send_errors_growth,
    growth[3] AS receive_drops_growth,
    growth[4] AS send_drops_growth,
    counters[1] AS receive_errors,
    counters[2] AS send_errors,
    counters[3] AS receive_drops,
    counters[4] AS send_drops
FROM ${database}.node_samples FINAL
ARRAY JOIN networks AS network
COMMENT 'One row per network interface and reading: link, speed, traffic, errors and drops in all and since the reading before (…_growth). NULL: not read'
