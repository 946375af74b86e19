"""Tests of the simulated docks."""
