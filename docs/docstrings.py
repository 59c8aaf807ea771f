"""Turn docstrings into Markdown for the API pages: cross-references, formulas, one entry for each argument."""

import re
from collections.abc import Iterator
from typing import Any

import griffe
from latex2mathml.converter import convert

_ROLE = re.compile(r":(?:attr|class|data|func|meth):`~?([\w.]+)`")
_DISPLAYED = re.compile(r"^( *)\.\. math:: (.+)$", re.MULTILINE)
_INLINE = re.compile(r":math:`(.+?)`")
_STAR = re.compile(r"(?<=[ (])\*(?=\w+\))")
_SHARED = re.compile(r"^( *)(\*{0,2}\w+(?:, \*{0,2}\w+)+)(:.*\n(?:\1 +.*\n)*)", re.MULTILINE)


class Markdown(griffe.Extension):
    """Rewrites the docstrings of a package before mkdocstrings renders them."""

    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:  # noqa: ARG002
        """Rewrite every docstring of the package."""
        for item in _objects(pkg):
            if item.docstring is not None:
                item.docstring.value = rewritten(item.docstring.value)


def rewritten(text: str) -> str:
    """Rewrite a docstring: roles as links, formulas as MathML, stars escaped, ``low, high: …`` as two entries."""
    text = _ROLE.sub(r"[`\1`][\1]", text)
    text = _DISPLAYED.sub(lambda found: found[1] + convert(found[2], display="block"), text)
    text = _INLINE.sub(lambda found: convert(found[1]), text)
    text = _STAR.sub(r"\\*", text)
    text = _SHARED.sub(lambda found: "".join(found[1] + name + found[3] for name in found[2].split(", ")), text + "\n")
    return re.sub(r"^Example:$", "Examples:", text, flags=re.MULTILINE).rstrip("\n")


def _objects(item: griffe.Object) -> Iterator[griffe.Object]:
    yield item
    for member in item.members.values():
        if isinstance(member, griffe.Object):
            yield from _objects(member)
