-- Records that could not be used, each once, whoever refused it.
CREATE OR REPLACE VIEW ${database}.dead_letters AS
SELECT
    topic,
    partition,
    `offset`,
    groupUniqArray(reason) AS reasons,
    groupUniqArray(detail) AS details,
    groupUniqArray(reader) AS readers,
    min(letter.observed_at) AS observed_at,
    any(letter.key) AS key,
    any(letter.value) AS value
FROM ${database}.dead_letter_log AS letter
GROUP BY topic, partition, `offset`
COMMENT 'Records that could not be used, one row each, with the bytes as they came and every reader''s reason'
