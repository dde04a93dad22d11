"""The front door: `biomamba <command> ...` runs `python -m biomamba.<command> ...`.

`biomamba --help` lists the commands. Neither it nor a mistyped command imports torch.
"""

import ast
import runpy
import sys
from pathlib import Path

from biomamba import __version__
from biomamba.config.messages import unknown_name
from biomamba.runtime.output import keep_going_without_reader

# In the order in which a project uses them.
COMMANDS = (
    "prepare",
    "verify",
    "train",
    "evaluate",
    "generate",
    "export",
    "report",
    "compare",
    "audit",
    "ledger",
    "plan",
    "doctor",
    "efficiency",
    "reproduce",
)
USAGE_ERROR_CODE = 2


def main() -> None:
    """Run the command that the first argument names with the arguments after it."""
    keep_going_without_reader()
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "help"):
        sys.stdout.write(usage())
    elif name in ("-V", "--version"):
        sys.stdout.write(f"biomamba {__version__}\n")
    elif name in COMMANDS:
        # Hydra and torchrun see the same process as after `python -m biomamba.<command>`.
        sys.argv = [f"biomamba {name}", *arguments]
        runpy.run_module(f"biomamba.{name}", run_name="__main__", alter_sys=True)
    else:
        sys.stderr.write(f"error: {unknown_name('command', name, COMMANDS)}\n")
        sys.exit(USAGE_ERROR_CODE)


def usage() -> str:
    """Return the help text: one line per command, from the first line of its module."""
    folder = Path(__file__).parent
    lines = [f"  {name:<11} {_summary(folder / f'{name}.py')}\n" for name in COMMANDS]
    return (
        "usage: biomamba <command> [key=value ...]\n\n"
        "Adapt Mamba2 language models to medicine. Every setting is a Hydra key.\n\n"
        f"commands:\n{''.join(lines)}\n"
        "  biomamba train --cfg job                  print every setting\n"
        "  biomamba train --list                     print the experiments\n"
        "  biomamba train +experiment=demo/adapt     run one\n"
        "  biomamba --version                        print the version\n\n"
        "`python -m biomamba.<command>` does the same, also under torchrun and srun.\n"
    )


def _summary(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


if __name__ == "__main__":
    main()
