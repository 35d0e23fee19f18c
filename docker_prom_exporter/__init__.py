"""Tells Prometheus whether Docker is up, and the health of each container."""

__version__ = "1.0.0"
