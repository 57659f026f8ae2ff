"""How fast, how large and how late fleetpulse is on this machine: `python -m tests.benchmarks [NAME…]` prints one table."""
