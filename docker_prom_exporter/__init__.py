"""Tells Prometheus whether Docker is up and how each container's health is."""

__version__ = "1.0.0"
