"""Three questions that the people who run a fleet ask, as SQL that a newcomer can read and run again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from infra.demo.scorecard import Row


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the statement that answers it; values stand in it as literals, so that it can be pasted."""

    text: str
    sql: str


def questions(rows: Sequence[Row]) -> list[Question]:
    """The questions, about the faults of this run."""
    asked = [
        Question(
            "Which GPUs are unhealthy now, why, and may they be rented out?",
            "SELECT gpu, node, health, rentable, action, why[1] AS reason\n"
            "FROM verdicts\n"
            "WHERE component_kind = 'gpu' AND health IN ('unhealthy', 'degraded')\n"
            "ORDER BY since_at LIMIT 6",
        )
    ]
    lost = next((row.injected for row in rows if row.injected.gpu), None)
    if lost is not None:
        asked.append(
            Question(
                f"What happened to GPU {lost.gpu}? (by serial: it keeps it wherever it is moved)",
                f"SELECT at, entry, node, text\nFROM gpu_history\nWHERE gpu = '{lost.gpu}'\nORDER BY at LIMIT 12",
            )
        )
    link = next((row.injected for row in rows if row.injected.fault == "nvlink_fails"), None)
    if link is not None:
        asked.append(
            Question(
                f"Is it one GPU, or the whole rack {link.rack}?",
                "SELECT title, root, member_count AS components, symptom_count AS symptoms, reason\n"
                "FROM incidents\n"
                f"WHERE has(racks, '{link.rack}') AND paged_at IS NOT NULL\n"
                "ORDER BY first_at",
            )
        )
    return asked
