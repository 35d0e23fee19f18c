"""The simulated engine of `demo`, and the play that changes its containers."""

from docker_prom_exporter.demo.engine import SimulatedContainer, SimulatedEngine
from docker_prom_exporter.demo.play import WATCH, Play

__all__ = ["WATCH", "Play", "SimulatedContainer", "SimulatedEngine"]
