"""Compare every backend with the recurrence in float64, for both models, in every precision.

    python benchmarks/backend_parity.py                # a CPU and the interpreted kernels
    python benchmarks/backend_parity.py --device cuda  # an NVIDIA GPU

Writes results/backend_parity_<device>.json and, with --page, the table into a page, between the
lines that name it. The interpreted kernels need the environment of `make test-interpreter`.
"""

import argparse
import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from measurement import write_result
from parity_cases import DTYPES, USUAL, Parity, measure_parity, usual_backends

CHECKOUT = Path(__file__).resolve().parent.parent
INTERPRETER = CHECKOUT / ".venv-interpreter" / "bin" / "python"
HEADINGS = ("backend", "model", "precision", "documents", "output", "final state", "gradients")


def main() -> None:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--interpreter", type=Path, default=INTERPRETER)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--page", type=Path)
    options = parser.parse_args()
    backends = usual_backends(options.device)
    found = [asdict(p) for p in measure_parity(backends, DTYPES, USUAL, options.device)]
    if options.device == "cpu":
        found += interpreted_figures(options.interpreter)
    rows = sorted(found, key=lambda row: (row["backend"], row["model"]))
    sizes = {"usual": asdict(USUAL), "columns": list(Parity.__dataclass_fields__)}
    write_result(f"backend_parity_{options.device}", {"sizes": sizes, "rows": rows}, options.output)
    table = markdown(rows)
    print(table)
    if options.page:
        replace_table(options.page, options.device, table)


def interpreted_figures(python: Path) -> list[dict[str, Any]]:
    """Return the rows of the interpreted kernels, none if their environment is missing."""
    if not python.exists():
        print(f"without the interpreted kernels: {python} is missing (make test-interpreter)")
        return []
    command = [str(python), "benchmarks/parity_cases.py", "--interpreted"]
    paths = os.pathsep.join([str(CHECKOUT), str(CHECKOUT / "benchmarks")])
    environment = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": paths}
    done = subprocess.run(
        command, cwd=CHECKOUT, env=environment, check=True, capture_output=True, text=True
    )
    rows: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return [row | {"backend": "fused, interpreted"} for row in rows]


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """Write the rows as a table; each figure is `absolute / relative`."""
    lines = [f"| {' | '.join(HEADINGS)} |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        figures = [_figure(row[name]) for name in ("output", "final_state", "gradients")]
        cells = [row["backend"], row["model"], row["dtype"], "packed" if row["packed"] else "one"]
        lines.append(f"| {' | '.join(cells + figures)} ({row['worst_gradient']}) |")
    return "\n".join(lines)


def _figure(errors: Sequence[float]) -> str:
    return " / ".join("0" if error == 0 else f"{error:.1e}" for error in errors)


def replace_table(page: Path, device: str, table: str) -> None:
    """Put the table between `<!-- parity <device> -->` and `<!-- end -->`."""
    start = f"<!-- parity {device} -->\n"
    before, found, rest = page.read_text(encoding="utf-8").partition(start)
    if not found:
        raise SystemExit(f"{page} has no line {start.strip()!r}")
    _, end, after = rest.partition("<!-- end -->")
    page.write_text(f"{before}{start}{table}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
