"""Keep the curves of a run in the order of its starts, whatever the clock says."""

import re
import time
from pathlib import Path

_NAME = re.compile(r"events\.out\.tfevents\.(\d+)(\..+)")
_BEGINNING_BYTES = 4 * 2**20  # what is written once per run stands behind one validation at most


def put_before_now(run_dir: Path) -> None:
    """Make the event files of earlier starts come before one that is begun now.

    TensorBoard reads the files of a folder by name, which begins with the second of their start; a
    resumed one takes back the points of those before it that are made again. Where the clock went
    back, or the next start comes within a second, the earlier files take names of earlier seconds.
    """
    found = {
        path: match
        for path in run_dir.rglob("events.out.tfevents.*")
        if (match := _NAME.fullmatch(path.name))
    }
    surplus = max((int(match[1]) for match in found.values()), default=0) - int(time.time()) + 1
    if surplus <= 0:
        return
    for path in sorted(found):  # the earliest first: no name is taken by another file
        second = int(found[path][1]) - surplus
        path.rename(path.with_name(f"events.out.tfevents.{second:010d}{found[path][2]}"))


def holds_tag(folder: Path, tag: str) -> bool:
    """Say whether an event file of a folder has a tag near its beginning."""
    name = tag.encode()
    for path in folder.glob("events.out.tfevents.*"):
        with path.open("rb") as file:
            if name in file.read(_BEGINNING_BYTES):
                return True
    return False
