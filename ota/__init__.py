"""Firmware packages, rollouts, upgrade tasks."""
