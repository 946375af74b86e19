"""Organizations, sites, devices, topology, presence."""
