"""The migrations as files: their order, their statements, and that each may run twice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from schemas.records import RECORDS
from schemas.topics import topics
from sinks.clickhouse.migrate import Migration, MigrationError, migrations, views
from sinks.clickhouse.tables import ROUTES

ALL = [*migrations(), *views()]


@pytest.mark.parametrize("migration", ALL, ids=lambda migration: migration.name)
def test_every_statement_can_run_twice_without_harm(migration: Migration) -> None:
    for statement in migration.statements("fleet"):
        assert re.search(
            r"^(CREATE (TABLE|MATERIALIZED VIEW) IF NOT EXISTS|CREATE OR REPLACE VIEW) fleet\.\w+"
            r"|^ALTER TABLE fleet\.\w+( MODIFY QUERY$|$)",
            statement,
            re.MULTILINE,
        )
        if re.search(r"^ALTER TABLE fleet\.\w+$", statement, re.MULTILINE):
            _, *changes = statement[statement.index("ALTER TABLE") :].splitlines()
            assert changes
            assert all(re.match(r"ADD COLUMN IF NOT EXISTS |MODIFY COLUMN \w+ CODEC\(", one.strip()) for one in changes)
        assert "${" not in statement


@pytest.mark.parametrize("migration", ALL, ids=lambda migration: migration.name)
def test_whatever_keeps_rows_says_what_they_are(migration: Migration) -> None:
    for statement in migration.statements("fleet"):
        if "MATERIALIZED VIEW" not in statement and "ALTER TABLE" not in statement:
            assert re.search(r"^COMMENT '.{20,}'$", statement, re.MULTILINE), statement[:80]


def test_statements_are_cut_at_semicolons_that_end_a_line() -> None:
    text = "-- first; and only\nCREATE a COMMENT 'b; c';\n\n-- no statement\n;\nCREATE ${database}.d\n;\n-- the end\n"
    assert Migration(1, "x", text).statements("fleet") == [
        "-- first; and only\nCREATE a COMMENT 'b; c'",
        "CREATE fleet.d",
    ]


def test_a_columns_comment_goes_before_its_codec_as_earlier_servers_want_it() -> None:
    text = (
        "a Int8 CODEC(FPC(12), ZSTD(1)) COMMENT 'it''s CODEC(1)',\nb Int8 COMMENT 'b' CODEC(NONE),\nc Int8 COMMENT 'c'"
    )
    assert Migration(1, "x", text).statements("fleet") == [
        "a Int8 COMMENT 'it''s CODEC(1)' CODEC(FPC(12), ZSTD(1)),\nb Int8 COMMENT 'b' CODEC(NONE),\nc Int8 COMMENT 'c'"
    ]


@pytest.mark.parametrize("view", views(), ids=lambda view: view.name)
def test_no_view_ends_with_a_subquery_whose_name_would_be_its_comment(view: Migration) -> None:
    """ClickHouse 25.8 reads `FROM (…) COMMENT '…'` as a subquery that is called COMMENT."""
    assert "\n)\nCOMMENT" not in view.text


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["0001_a.sql", "0003_c.sql"], "migration 0003_c stands where 0002 is expected"),
        (["0001_a.sql", "0001_b.sql"], "migration 0001_b stands where 0002 is expected"),
        (["1_a.sql"], "1_a.sql is not named NNNN_name.sql"),
    ],
)
def test_a_gap_a_double_or_a_bad_name_in_the_order_is_an_error(
    names: list[str], complaint: str, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).write_text("CREATE TABLE IF NOT EXISTS ${database}.a (b Int8) ENGINE = Null")
    with pytest.raises(MigrationError, match=re.escape(complaint)):
        migrations(tmp_path)


def test_a_view_comes_after_those_it_reads(tmp_path: Path) -> None:
    for name, reads in {"alpha": "zeta", "mid": "alpha", "zeta": "table"}.items():
        (tmp_path / f"{name}.sql").write_text(
            f"CREATE OR REPLACE VIEW ${{database}}.{name} AS SELECT * FROM ${{database}}.{reads}"
        )
    assert [view.name for view in views(tmp_path)] == ["zeta", "alpha", "mid"]


def test_every_topic_of_records_has_its_way_into_clickhouse() -> None:
    assert {route.topic: route.kind.__name__ for route in ROUTES} == {
        name: topic.schema for name, topic in topics().items() if topic.schema in RECORDS
    }
    made = "\n".join(statement for migration in migrations() for statement in migration.statements("fleet"))
    for route in ROUTES:
        assert f"CREATE TABLE IF NOT EXISTS fleet.{route.way_in}\n" in made
