"""Stream processors: windows, detectors, faults, correlation."""
