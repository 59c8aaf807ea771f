"""The command line: arguments in, calls out; it computes nothing. One module a command."""

import io
import re
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import tyro

from cheaplip.cli.bracket import Bracket
from cheaplip.cli.certify import Certify
from cheaplip.cli.compare import Compare
from cheaplip.cli.console import Interrupt, fail, messages, shown_warnings
from cheaplip.cli.evaluate import Evaluate
from cheaplip.cli.export import Export
from cheaplip.cli.report import Report
from cheaplip.cli.reproduce import Reproduce
from cheaplip.cli.train import Train
from cheaplip.cli.verify import Verify
from cheaplip.errors import Interrupted

__all__ = [
    "Bracket",
    "Certify",
    "Compare",
    "Evaluate",
    "Export",
    "Report",
    "Reproduce",
    "Train",
    "Verify",
    "run",
]

_COMMANDS: dict[str, Callable[..., Any]] = {
    "train": Train,
    "compare": Compare,
    "evaluate": Evaluate,
    "bracket": Bracket,
    "certify": Certify,
    "verify": Verify,
    "reproduce": Reproduce,
    "report": Report,
    "export": Export,
}


def run(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit status: 0 done, 2 bad input, 130 interrupted."""
    interrupt = Interrupt()
    previous = {kind: signal.signal(kind, interrupt.request) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        command = _parse(arguments)
        if isinstance(command, int):
            return command
        with shown_warnings():
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
    """The command, or an exit status; what the parser prints about bad input is folded to one line."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            command: Callable[[Interrupt], None] = tyro.extras.subcommand_cli_from_dict(
                _COMMANDS,
                prog="cheaplip",
                description="Train stable models, cheaply; say honestly how stable they are.",
                args=list(arguments),
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 2
        if status == 0:
            sys.stdout.write(out.getvalue())
        else:
            told = " ".join(re.sub(r"[─│╭╮╰╯━┃]|-{3,}|\x1b\[[0-9;]*m", " ", err.getvalue() + out.getvalue()).split())
            fail(re.sub(r"^Value error Error parsing __tyro\S*: ", "", told))  # a name of the parser's own
        return status
    return command
