"""The contracts: what parts of fleetpulse say to each other, and nothing else."""
