"""What each command of the `fleetpulse` CLI does; `infra/cli.py` says how they are called."""
