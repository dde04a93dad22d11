"""Output that nobody reads any more: a closed pipe or terminal never ends a program.

`python -m biomamba.train ... | head -1` closes the pipe after a line, and a lost SSH connection the
terminal. A later print would raise BrokenPipeError or EIO wherever it is, before models and
records are written. What cannot be shown is dropped; log files and records keep it.
"""

import io
import select
import sys
from typing import Any


class _DroppingFile(io.FileIO):
    """Writes to a file descriptor; drops what it does not take, from the first error on."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self._is_lost = False

    def write(self, content: Any) -> int:
        written = None
        while written is None and not self._is_lost:
            try:
                written = super().write(content)
                if written is None:  # a full pipe that another process has made non-blocking
                    select.select([], [self], [])
            except OSError:
                self._is_lost = True
        return memoryview(content).nbytes if written is None else written


def keep_going_without_reader() -> None:
    """Let prints to stdout and stderr fail silently, also those of libraries and at exit.

    Characters that the encoding of a stream lacks are written as escapes, as Python does on stderr.
    Streams that a caller has replaced, as tests do, are left alone.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or stream is not getattr(sys, f"__{name}__"):
            continue
        try:
            stream.flush()
            raw = _DroppingFile(stream.fileno())
        except (OSError, ValueError):  # closed before the program started
            setattr(sys, name, io.StringIO())
            continue
        setattr(
            sys,
            name,
            io.TextIOWrapper(
                io.BufferedWriter(raw),
                encoding=stream.encoding,
                errors="backslashreplace" if stream.errors == "strict" else stream.errors,
                line_buffering=stream.line_buffering,
                write_through=name == "stderr",
            ),
        )
