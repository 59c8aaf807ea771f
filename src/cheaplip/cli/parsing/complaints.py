"""What tyro, the parser, says about words that it cannot parse, in one short line.

The texts are those of tyro 1.0. One that is not among them is shown as it is, on one line.
"""

import ast
import re
from collections.abc import Sequence

from cheaplip.suggestion import did_you_mean, nearest

__all__ = ["one_line", "without_frames"]

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_FRAMES = re.compile(r"[─│╭╮╰╯━┃├┤]|-{3,}")
_KINDS = {"INT": "a whole number", "FLOAT": "a number", "STR": "text", "PATH": "a path"}
_ADDED = (  # to what is wrong, by tyro
    "Perhaps you meant",
    "Arguments similar to",
    "Argument helptext",
    "Available subcommands",
    "For full helptext",
)


def without_frames(text: str) -> str:
    """Replace the lines around and between parts of a text by blanks, and remove colours."""
    return _FRAMES.sub(lambda found: " " * len(found[0]), _COLOURS.sub("", text))


def one_line(text: str, words: Sequence[str], options: Sequence[str], commands: Sequence[str]) -> str:
    """Shorten what the parser says.

    Args:
        text: what it printed.
        words: what it was to parse, the command's name first.
        options: those of the command, such as ``--out``.
        commands: the names of all commands.
    """
    parts = _parts(text)
    command = words[0] if words and words[0] in commands else ""
    if not command and words and not words[0].startswith("-"):
        return f"unknown command {words[0]!r}: expected one of {', '.join(commands)}{did_you_mean(words[0], commands)}"
    helped = f"'cheaplip {command} --help'" if command else "'cheaplip --help'"
    if not words:
        return f"expected a command, one of {', '.join(commands)}: {helped} describes them"
    said = []
    for part in parts[1:]:
        whole = _joined(part)
        if whole.startswith("Missing from"):
            said += _missing(part[1:])
        elif found := re.match(r"Unrecognized (?:or misplaced )?options: (.*)", whole):
            said += _unknown(found[1], options, helped)
        elif not whole.startswith(_ADDED):
            said.append(_wrong_value(whole))
    return "; ".join(said) if said and all(said) else _as_it_is(parts)


def _parts(text: str) -> list[list[str]]:
    """Return the lines of the title, and of each part that a rule separates from the others, indented as they were."""
    parts: list[list[str]] = [[]]
    for line in _COLOURS.sub("", text).splitlines():
        bare = without_frames(line)
        if bare.strip():
            parts[-1].append(bare)
        if line.strip() and (not bare.strip() or "╭" in line):  # a rule, or a title in the frame of a box
            parts.append([])
    return [part for part in parts if part]


def _joined(part: Sequence[str]) -> str:
    return " ".join(" ".join(part).split())


def _missing(lines: Sequence[str]) -> list[str]:
    """List what is missing, from lines with options and, indented further, their help."""
    depths = [len(line) - len(line.lstrip()) for line in lines]
    found: list[list[str]] = []
    for line, depth in zip(lines, depths, strict=True):
        if depth == min(depths):
            found.append([])
        found[-1].append(line)
    listed = []
    for name, *about in found:
        told = _joined(about).replace("(required)", "").strip()
        kind = f"option {name.strip()}" if name.strip().startswith("-") else "argument"
        listed.append(f"missing {kind}" + (f" ({told})" if told else ""))
    return listed


def _unknown(given: str, options: Sequence[str], helped: str) -> list[str]:
    """List the options that there are not, each with its values and the one that was probably meant."""
    given = re.sub(r"\(applied to [^)]*\)|Arguments are applied to .*", "", given)
    groups: list[list[str]] = []
    for word in re.split(r",?\s+", given.strip()):
        if word.startswith("-") or not groups:
            groups.append([])
        groups[-1].append(word)
    listed = []
    for group in groups:
        option, what = group[0].partition("=")[0], " ".join(group)
        if not option.startswith("-"):
            listed.append(f"unexpected {what!r}: {helped} lists what is expected")
            continue
        near = nearest(option.lstrip("-"), [known.lstrip("-") for known in options])
        hint = f"did you mean --{near}?" if near else f"{helped} lists the options"
        listed.append(f"unrecognized option {what}: {hint}")
    return listed


def _wrong_value(said: str) -> str:
    """Say what was expected of an option, and what it got; "" where the parser's words are not known."""
    if found := re.fullmatch(r"Error parsing (\S+): (.*)", said):
        name, problem = found.groups()
        if not name.startswith("--"):  # a name that only the parser uses, and an error of our own
            return problem
        if union := re.match(r"no type matching (.+?) could be instantiated from (\[.*?\])\.(?: |$)", problem):
            return f"{name}: expected {_kinds(union[1])}, got {_given(union[2])}"
        for start, kind in (("invalid literal for int()", "INT"), ("could not convert string to float", "FLOAT")):
            if problem.startswith(start):
                return f"{name}: expected {_KINDS[kind]}, got {problem.partition(': ')[2]}"
        return problem if problem.startswith(f"{name.lstrip('-')}:") else f"{name}: {problem}"
    if found := re.match(r"invalid choice (.+) for argument '(--\S+)'\. Expected one of \((.*?),?\)\.", said):
        got, name, listed = found.groups()
        choices = sorted((choice.strip(" '\"") for choice in listed.split(",")), key=lambda c: (c == "None", c))
        return f"{name}: expected one of {', '.join(choices)}, got {got}{did_you_mean(got.strip(chr(39)), choices)}"
    if found := re.match(r"Missing value for argument '(--\S+)'", said):
        return f"{found[1]}: expected a value, got none"
    return ""


def _kinds(metavar: str) -> str:
    """Write the kinds of value that an option takes, such as ``{None}|INT``, in words."""
    kinds = [_KINDS.get(kind, kind.strip("{}").replace(",", ", ")) for kind in metavar.split("|")]
    return " or ".join(sorted(kinds, key=lambda kind: kind == "None"))


def _given(listed: str) -> str:
    """Write the words that an option got, from a list in Python's notation."""
    try:
        return repr(" ".join(map(str, ast.literal_eval(listed))))
    except (SyntaxError, ValueError):
        return listed


def _as_it_is(parts: Sequence[Sequence[str]]) -> str:
    """Write all parts as sentences, without a title that is said again."""
    texts = [_joined(part) for part in parts]
    if len(texts) > 1 and texts[1].casefold().startswith(texts[0].casefold()):
        texts = texts[1:]
    return " ".join(text if text.endswith((".", ":", "?", "!")) else f"{text}." for text in texts).removesuffix(".")
