"""The command line: it turns arguments into calls, and shows the results; it computes nothing itself.

Each command is a dataclass in a module of its own, whose fields are its options; ``train.py`` is a short one. Shared by
all: ``options.py`` (options given as text), ``trained_model.py`` (options that name a model), ``tracking.py``,
``console.py`` (progress bars, tables, messages), ``parsing/`` (from words to a command). Start with ``run`` below.

May import every other package except ``integrations``.
"""

import signal
from collections.abc import Callable, Sequence
from typing import Any

from cheaplip.cli.bracket import BracketCommand
from cheaplip.cli.certify import CertifyCommand
from cheaplip.cli.compare import CompareCommand
from cheaplip.cli.console import Interrupt, fail, messages, warnings_as_lines
from cheaplip.cli.evaluate import EvaluateCommand
from cheaplip.cli.export import ExportCommand
from cheaplip.cli.frontier import FrontierCommand
from cheaplip.cli.parsing import parse
from cheaplip.cli.report import ReportCommand
from cheaplip.cli.reproduce import ReproduceCommand
from cheaplip.cli.rivals import RivalsCommand
from cheaplip.cli.train import TrainCommand
from cheaplip.cli.verify import VerifyCommand
from cheaplip.errors import Interrupted

__all__ = [
    "BracketCommand",
    "CertifyCommand",
    "CompareCommand",
    "EvaluateCommand",
    "ExportCommand",
    "FrontierCommand",
    "ReportCommand",
    "ReproduceCommand",
    "RivalsCommand",
    "TrainCommand",
    "VerifyCommand",
    "run",
]

_COMMANDS: dict[str, Callable[..., Any]] = {
    "train": TrainCommand,
    "compare": CompareCommand,
    "rivals": RivalsCommand,
    "frontier": FrontierCommand,
    "evaluate": EvaluateCommand,
    "bracket": BracketCommand,
    "certify": CertifyCommand,
    "verify": VerifyCommand,
    "reproduce": ReproduceCommand,
    "report": ReportCommand,
    "export": ExportCommand,
}


def run(arguments: Sequence[str]) -> int:
    """Run one command.

    Args:
        arguments: the words after ``cheaplip``.

    Returns:
        The exit status: 0 done, 2 bad input, 130 interrupted.
    """
    interrupt = Interrupt()
    previous = {kind: signal.signal(kind, interrupt.request) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        command = _parse(arguments)
        if isinstance(command, int):
            return command
        with warnings_as_lines():
            command(interrupt)
    except Interrupted:
        messages.print(
            "cheaplip: interrupted; the state is saved: the same command continues (train: with --resume)",
            soft_wrap=True,
        )
        return 130
    except KeyboardInterrupt:
        messages.print("cheaplip: interrupted; what was finished before is kept", soft_wrap=True)
        return 130
    except (ValueError, ImportError, OSError) as error:
        fail(str(error))
        return 2
    finally:
        for kind, handler in previous.items():
            signal.signal(kind, handler)
    return 0


def _parse(arguments: Sequence[str]) -> Callable[[Interrupt], None] | int:
    """Parse arguments into a command, or an exit status."""
    return parse(_COMMANDS, arguments)
