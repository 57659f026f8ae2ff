"""What stands around the nodes: PDUs, coolers and meters over Modbus, management controllers over Redfish or IPMI."""

from __future__ import annotations
