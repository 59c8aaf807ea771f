"""From the words of a command line to a command, and from the parser's complaints to one line each.

``parser.py`` calls tyro, the parser; start there. ``complaints.py`` shortens what tyro says about words that it cannot
parse.

May import what ``cli`` may.
"""

from cheaplip.cli.parsing.parser import parse

__all__ = ["parse"]
