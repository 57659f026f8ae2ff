"""The host of the GPUs: processors, memory, swap, pressure, disks, networks, clock."""
