"""Programs the tests start, and the promise that nothing of them stays behind."""

import os
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from support.waiting import wait_for

CGROUPS = Path("/sys/fs/cgroup")


class CommandError(Exception):
    """A command failed; the message holds the command and what it wrote to standard error."""


@dataclass(frozen=True)
class Command:
    """A program with its leading arguments, its whole environment, and the folder it runs in."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path | None = None

    def run(self, *args: str, stdin: bytes = b"", check: bool = True, seconds: float = 60) -> str:
        """Run it with more arguments and return its standard output, stripped.

        Raises CommandError when it takes longer than `seconds`, or fails and `check` is set.
        """
        argv = [*self.argv, *args]
        try:
            done = subprocess.run(
                argv,
                env=dict(self.env),
                cwd=self.cwd,
                input=stdin,
                capture_output=True,
                check=check,
                timeout=seconds,
            )
        except subprocess.CalledProcessError as error:
            reason = error.stderr.decode(errors="replace").strip()
            raise CommandError(f"{' '.join(argv)}: exit {error.returncode}: {reason}") from error
        except subprocess.TimeoutExpired as error:
            raise CommandError(f"{' '.join(argv)}: no end after {seconds:g} s") from error
        return done.stdout.decode(errors="replace").strip()


@dataclass
class Daemon:
    """One program in the background, its output in a file."""

    log: Path
    _process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the process exists, be it stopped by a signal or not."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Return the process id; there is one from `start()` on."""
        if self._process is None:
            raise RuntimeError("start it first")
        return self._process.pid

    def start(self, command: Command) -> None:
        """Start it in a session of its own, so that Ctrl-C reaches the tests and not the daemon."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command.argv,
                env=dict(command.env),
                cwd=command.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def send(self, number: signal.Signals) -> None:
        """Send a signal; one that is gone already gets none."""
        if self._process is not None:
            self._process.send_signal(number)

    def wait(self, seconds: float = 20) -> int:
        """Return the exit code once it has ended; TimeoutExpired where that takes longer."""
        if self._process is None:
            raise RuntimeError("start it first")
        return self._process.wait(seconds)

    def freeze(self) -> None:
        """SIGSTOP, and wait until no thread runs any more; `send(SIGCONT)` undoes it."""
        self.send(signal.SIGSTOP)
        threads = Path(f"/proc/{self.pid}/task")
        wait_for(
            lambda: all(_state(thread / "stat") in b"TZX" for thread in threads.iterdir()),
            what=f"all threads of {self.pid} to stop",
        )

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.send(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def terminate(self, seconds: float = 20) -> None:
        """SIGTERM, and SIGKILL where that doesn't end it in time."""
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            if self._process is not None:
                self._process.wait(seconds)
        self.kill()

    def last_words(self, lines: int = 5) -> str:
        """Return the end of the log; nothing where it was never started."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


def _fresh_directory() -> Path:
    return Path(tempfile.gettempdir()) / f"engine-{uuid.uuid4().hex[:8]}"


@dataclass(frozen=True)
class Sandbox:
    """A folder and a control group that hold all of an engine, and can be emptied by force."""

    directory: Path = field(default_factory=_fresh_directory)

    @property
    def state(self) -> Path:
        """Return the folder only the engine's own programs are told of; clients know the socket beside it."""
        return self.directory / "state"

    @property
    def cgroup(self) -> str:
        """Return the parent control group for every container, in the form the engines take."""
        return f"/{self.directory.name}"

    @property
    def exists(self) -> bool:
        """Whether there is anything in it."""
        return self.directory.exists()

    def create(self) -> None:
        """Make the folder; it may exist."""
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)

    def clear(self) -> None:
        """End every process, undo every mount and delete every file."""
        wait_for(self._killed, what=f"the processes of {self.directory} to end")
        for mount in sorted(self._mounts(), reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=True)
        shutil.rmtree(self.directory, ignore_errors=True)
        wait_for(self._cgroups_removed, what=f"the control groups of {self.directory} to be empty")

    def processes(self) -> list[int]:
        """Return the pids of daemons and shims, by their arguments, and of containers, by their cgroup."""
        arguments, cgroup = f"{self.state}/".encode(), f"{self.cgroup}/".encode()
        return [
            pid for pid in _living() if arguments in _proc(pid, "cmdline") or cgroup in _proc(pid, "cgroup")
        ]

    def cgroups(self) -> list[Path]:
        """Return the parent control groups that exist: in the one hierarchy of v2, or in each of v1."""
        name = self.directory.name
        return [*CGROUPS.glob(name), *CGROUPS.glob(f"*/{name}")]

    def _killed(self) -> bool:
        """SIGKILL whoever is left, frozen or not, and say whether nobody is."""
        for frozen in CGROUPS.glob(f"freezer{self.cgroup}/*/freezer.state"):
            with suppress(FileNotFoundError):
                frozen.write_text("THAWED")
        left = self.processes()
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    def _mounts(self) -> list[str]:
        points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
        return [point for point in points if Path(point).is_relative_to(self.directory)]

    def _cgroups_removed(self) -> bool:
        """Remove the control groups, leaves first, and say whether none is left; those in use stay."""
        tops = self.cgroups()
        below = [path for top in tops for path in top.rglob("*/")]
        for cgroup in [*sorted(below, reverse=True), *tops]:
            with suppress(OSError):
                cgroup.rmdir()
        return not self.cgroups()


def _living() -> Iterator[int]:
    """Yield the pids that are no zombies: those are their parent's to bury."""
    for entry in Path("/proc").glob("[0-9]*"):
        if _state(entry / "stat") not in (b"", b"Z"):
            yield int(entry.name)


def _state(stat: Path) -> bytes:
    """Return the letter proc(5) has for the state of a process or thread; empty for one that is gone."""
    return _read(stat).rpartition(b") ")[2][:1]


def _proc(pid: int, name: str) -> bytes:
    return _read(Path(f"/proc/{pid}/{name}"))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
