"""What a command costs: `python -m bench.cost COMMAND...` prints JSON.

A process of its own, and a small one: Linux counts the memory of the process that starts a command
as the command's.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time


def main() -> None:
    """Run the command to its end, whatever it finds, and print what it took."""
    started = time.perf_counter()
    done = subprocess.run(
        sys.argv[1:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
    )
    wall = time.perf_counter() - started
    if "Traceback" in done.stderr or "panic:" in done.stderr:
        sys.exit(f"{' '.join(sys.argv[1:])}: {done.stderr}")
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = used.ru_utime + used.ru_stime
    json.dump({"wall": wall, "cpu": cpu, "peak": used.ru_maxrss / 1024}, sys.stdout)


if __name__ == "__main__":
    main()
