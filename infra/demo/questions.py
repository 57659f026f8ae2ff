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
            "Which GPU is unhealthy now, and why?",
            "SELECT gpu, node, fault_class, action, reason\n"
            "FROM fault_history\n"
            "WHERE state != 'cleared' AND severity = 'critical' AND gpu IS NOT NULL\n"
            "ORDER BY first_at LIMIT 6",
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
