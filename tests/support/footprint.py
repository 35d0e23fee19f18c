"""The memory, threads and descriptors of a process."""

import re
from pathlib import Path


def footprint(pid: int) -> dict[str, int]:
    """Return the resident memory in MB, the number of threads and the number of open descriptors."""
    status = dict(
        re.findall(r"(VmRSS|Threads):\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    )
    descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return {
        "MB": int(status["VmRSS"]) // 1024,
        "threads": int(status["Threads"]),
        "descriptors": descriptors,
    }
