"""How fast, large and late fleetpulse is on this machine: `python -m tests.benchmarks [NAME…]` prints one table."""
