"""Run every measurement, write ``bench/RESULTS.md`` and the pictures of the README."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODULES = ("codec", "restore", "compaction", "replicate", "vfs", "queries", "stores")
FIGURE = ROOT / "docs" / "figures" / "reader.svg"


def main() -> None:
    """Run the modules that are asked for, in processes of their own; their tables go to the file."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=main.__doc__)
    parser.add_argument("modules", nargs="*", choices=[[], *MODULES], help="all without")
    parser.add_argument("--quick", action="store_true", help="leave out what takes the peer ten minutes")
    arguments = parser.parse_args()
    results = ROOT / "bench" / "RESULTS.md"
    machine = f"{os.cpu_count()} cores, {platform.machine()}, CPython {platform.python_version()}"
    parts = [f"# Results\n\n{date.today().isoformat()}, {machine}. Both sides in the same run; read the ratios.\n"]
    for name in arguments.modules or MODULES:
        if not (ROOT / "bench" / f"{name}.py").exists():
            continue
        command = [sys.executable, "-m", f"bench.{name}"]
        if name == "restore" and not arguments.quick:
            command += ["--all"]
        if name == "vfs":
            command += ["--figure", str(FIGURE), *([] if arguments.quick else ["--peer-scan"])]
        if name == "queries":
            command += ["--figures", str(FIGURE.parent), *(["--level", "nothing"] if arguments.quick else [])]
        print(f"$ {' '.join(command[1:])}", flush=True)
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=False)
        print(done.stdout, flush=True)
        if done.returncode:
            raise SystemExit(f"bench.{name} failed with status {done.returncode}")
        shown = done.stdout.strip() if name == "queries" else f"```\n{done.stdout.strip()}\n```"
        parts.append(f"## {name}\n\n{shown}\n")
    if not arguments.modules:
        results.write_text("\n".join(parts))


if __name__ == "__main__":
    main()
