"""Programs that tests start, and the sandbox that removes everything they leave behind."""

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
from typing import Any

from support.waiting import wait_for

CGROUPS = Path("/sys/fs/cgroup")


class CommandError(Exception):
    """A command failed. The message has the command and its standard error."""


def completed(
    command: Sequence[str | Path], **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run a command until it ends, with options of `subprocess.run`, and keep its output as text."""
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)


def output_of(command: Sequence[str | Path], **options: Any) -> str:
    """Run a command that must succeed, with options of `subprocess.run`, and return its output."""
    done = completed(command, **options)
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


@dataclass(frozen=True)
class Command:
    """A program with its leading arguments, its environment and its working folder."""

    argv: Sequence[str]
    env: Mapping[str, str]
    cwd: Path | None = None

    @property
    def environ(self) -> dict[str, str]:
        """Return the whole environment: `env`, and the folder for temporary files, which is checked."""
        return {"TMPDIR": tempfile.gettempdir(), **self.env}

    def run(
        self, *args: str, stdin: bytes = b"", check: bool = True, seconds: float = 240
    ) -> str:
        """Run the program with more arguments and return its standard output, stripped.

        Raises CommandError if it takes longer than `seconds`, or if it fails and `check` is set.
        """
        argv = [*self.argv, *args]
        try:
            done = subprocess.run(
                argv,
                env=self.environ,
                cwd=self.cwd,
                input=stdin,
                capture_output=True,
                check=check,
                timeout=seconds,
            )
        except subprocess.CalledProcessError as error:
            reason = error.stderr.decode(errors="replace").strip()
            raise CommandError(
                f"{' '.join(argv)}: exit {error.returncode}: {reason}"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise CommandError(
                f"{' '.join(argv)}: still running after {seconds:g} s"
            ) from error
        return done.stdout.decode(errors="replace").strip()


@dataclass
class Daemon:
    """A program in the background whose output goes to a file."""

    log: Path
    _process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        """Whether the process exists; a process stopped by SIGSTOP does."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Return the process id; raise RuntimeError before `start()`."""
        if self._process is None:
            raise RuntimeError("start it first")
        return self._process.pid

    def start(self, command: Command) -> None:
        """Start the program in its own session, so that Ctrl-C reaches the tests and not the program."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command.argv,
                env=command.environ,
                cwd=command.cwd,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless the process has ended or was never started."""
        if self._process is not None:
            self._process.send_signal(number)

    def wait(self, seconds: float = 60) -> int:
        """Return the exit code once the process has ended; raise TimeoutExpired after `seconds`."""
        if self._process is None:
            raise RuntimeError("start it first")
        return self._process.wait(seconds)

    def freeze(self) -> None:
        """Send SIGSTOP and wait until every thread has stopped; `send(SIGCONT)` resumes them."""
        self.send(signal.SIGSTOP)
        threads = Path(f"/proc/{self.pid}/task")
        wait_for(
            lambda: all(_state(thread / "stat") in b"TZX" for thread in threads.iterdir()),
            what=f"all threads of {self.pid} to stop",
        )

    def kill(self) -> None:
        """Send SIGKILL and wait until the process has ended."""
        self.send(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def terminate(self) -> None:
        """Send SIGTERM, and SIGKILL if the process is still running after 20 seconds."""
        self.send(signal.SIGCONT)
        self.send(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            if self._process is not None:
                self._process.wait(20)
        self.kill()

    def log_tail(self) -> str:
        """Return the last five lines of the log; empty if the program was never started."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-5:])


def _fresh_directory() -> Path:
    return Path(tempfile.gettempdir()) / f"engine-{uuid.uuid4().hex[:8]}"


@dataclass(frozen=True)
class Sandbox:
    """A folder and a control group that contain all of an engine and can be emptied by force."""

    directory: Path = field(default_factory=_fresh_directory)

    @property
    def state(self) -> Path:
        """Return the folder that only the engine's own programs use; clients use the socket beside it."""
        return self.directory / "state"

    @property
    def cgroup(self) -> str:
        """Return the parent control group of every container, in the form that the engines take."""
        return f"/{self.directory.name}"

    @property
    def exists(self) -> bool:
        """Whether the folder exists."""
        return self.directory.exists()

    def create(self) -> None:
        """Create the folder, unless it exists."""
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)

    def clear(self) -> None:
        """Kill every process, unmount every mount and delete every file."""
        wait_for(self._killed, what=f"the processes of {self.directory} to end")
        for mount in sorted(self._mounts(), reverse=True):
            subprocess.run(["umount", "--lazy", mount], check=True)
        shutil.rmtree(self.directory, ignore_errors=True)
        wait_for(
            self._cgroups_removed, what=f"the control groups of {self.directory} to be empty"
        )

    def processes(self) -> list[int]:
        """Return the pids of daemons and shims, found by argument, and of containers, found by cgroup."""
        arguments, cgroup = f"{self.state}/".encode(), f"{self.cgroup}/".encode()
        return [
            pid
            for pid in _living()
            if arguments in _proc(pid, "cmdline") or cgroup in _proc(pid, "cgroup")
        ]

    def cgroups(self) -> list[Path]:
        """Return the existing parent control groups: one in the hierarchy of v2, or one in each of v1's."""
        name = self.directory.name
        return [*CGROUPS.glob(name), *CGROUPS.glob(f"*/{name}")]

    def _killed(self) -> bool:
        """Thaw and kill every remaining process; return whether there was none."""
        for frozen in CGROUPS.glob(f"freezer{self.cgroup}/*/freezer.state"):
            with suppress(FileNotFoundError):
                frozen.write_text("THAWED")
        left = self.processes()
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return not left

    def _mounts(self) -> list[str]:
        points = (
            line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()
        )
        return [point for point in points if Path(point).is_relative_to(self.directory)]

    def _cgroups_removed(self) -> bool:
        """Remove the control groups that are not in use, leaves first; return whether none is left."""
        tops = self.cgroups()
        below = [path for top in tops for path in top.rglob("*/")]
        for cgroup in [*sorted(below, reverse=True), *tops]:
            with suppress(OSError):
                cgroup.rmdir()
        return not self.cgroups()


def _living() -> Iterator[int]:
    """Yield the pids of all processes except zombies, which only their parents can reap."""
    for entry in Path("/proc").glob("[0-9]*"):
        if _state(entry / "stat") not in (b"", b"Z"):
            yield int(entry.name)


def _state(stat: Path) -> bytes:
    """Return the state of a process or thread as a letter of proc(5); empty if it has ended."""
    return _read(stat).rpartition(b") ")[2][:1]


def _proc(pid: int, name: str) -> bytes:
    return _read(Path(f"/proc/{pid}/{name}"))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""
