"""`simulate_docks`."""
