"""Docks that speak the device's side of the DJI Cloud API, for the demo and for tests."""
