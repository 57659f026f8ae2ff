"""`fleetpulse doctor`: what this machine and this installation have, what is missing, and how to mend it.

`servers.py` checks the machine and the servers, `node.py` what the sources of a node need.
"""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra import observe
from infra.doctor import node, servers
from infra.doctor.finding import Finding, Verdict
from infra.settings import Settings

__all__ = ["Finding", "Verdict", "examine", "run"]


def examine(settings: Settings) -> list[Finding]:
    """Every finding of every check. A check that fails by itself is a finding."""
    findings: list[Finding] = []
    for check in (*servers.CHECKS, *node.CHECKS):
        try:
            findings += check(settings)
        except Exception as error:  # noqa: BLE001 - one broken check must not hide the others
            name = check.__name__.replace("_", " ")
            findings.append(Finding(Verdict.BROKEN, name, f"the check failed: {type(error).__name__}: {error}"))
    return findings


def run(settings: Settings) -> int:
    """Print what was found; 1 if something needed is broken."""
    observe.configure_logging(
        "doctor", level="warning", json_lines=settings.observe.json_lines
    )  # what is found says it
    console = Console()
    findings = examine(settings)
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    colours = {Verdict.GOOD: "green", Verdict.NOTE: "yellow", Verdict.BROKEN: "bold red"}
    for finding in findings:
        text = escape(finding.found)
        if finding.mend and finding.verdict is not Verdict.GOOD:
            text += f"\n[dim]→[/] {escape(finding.mend)}"
        table.add_row(f"[{colours[finding.verdict]}]{finding.verdict.value}[/]", finding.about, text)
    console.print(table)
    broken = [finding.about for finding in findings if finding.verdict is Verdict.BROKEN]
    console.print()
    if broken:
        console.print(f"[bold red]broken:[/] {escape(', '.join(broken))}")
        return 1
    console.print("[green]everything that is needed is there[/]; `·` marks what this machine does without")
    return 0
