"""What `demo` serves: a simulated engine and the play shown on it."""

from docker_prom_exporter.demo.engine import SimulatedContainer, SimulatedEngine
from docker_prom_exporter.demo.play import WATCH, Play

__all__ = ["WATCH", "Play", "SimulatedContainer", "SimulatedEngine"]
