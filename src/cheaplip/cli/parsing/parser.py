"""``parse``: a command from the words of a command line."""

import io
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import tyro

from cheaplip.cli.console import Interrupt, fail
from cheaplip.cli.parsing.complaints import one_line, without_frames

__all__ = ["parse"]

_OPTIONS = re.compile(r"^ *(--[a-z].*)", re.MULTILINE)


def parse(commands: Mapping[str, Callable[..., Any]], arguments: Sequence[str]) -> Callable[[Interrupt], None] | int:
    """Parse words into a command, or an exit status; what is wrong with the words is printed in one line.

    Args:
        commands: the dataclass of each command, by name.
        arguments: the words after ``cheaplip``.
    """
    words = _joined(arguments)
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            command: Callable[[Interrupt], None] = tyro.extras.subcommand_cli_from_dict(
                {**commands},
                prog="cheaplip",
                description="Train models with a small Lipschitz constant, measure how stable they are, and prove it.",
                args=words,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 2
        if status == 0:
            sys.stdout.write(out.getvalue())
        else:
            options = _options(commands[words[0]]) if words and words[0] in commands else ()
            fail(one_line(err.getvalue() + out.getvalue(), words, options, tuple(commands)))
        return status
    return command


def _joined(arguments: Sequence[str]) -> list[str]:
    """Join a percent sign that stands alone, as in ``0.5 %``, with the word before it."""
    words: list[str] = []
    for word in arguments:
        if word == "%" and words:
            words[-1] += word
        else:
            words.append(word)
    return words


def _options(command: Callable[..., Any]) -> tuple[str, ...]:
    """Return the options of a command, such as ``--out``, as its help lists them."""
    out = io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(out):
            tyro.cli(command, args=["--help"], config=(tyro.conf.OmitArgPrefixes,))
    except SystemExit:
        pass  # as after every help
    lines = _OPTIONS.findall(without_frames(out.getvalue()))
    return tuple(option for line in lines for option in re.findall(r"--[a-z][\w-]*", line.split("  ")[0]))
