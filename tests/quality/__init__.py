"""The scoreboard: how well faults are found, and how well they are put together, where the truth is known."""
