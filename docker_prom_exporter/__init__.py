"""Tells Prometheus whether Docker is up and how each container's health is."""

__version__ = "0.1.0"
