"""torch.export made quicker, with the same results: most tests of bounds read a model, and reading exports it.

Each export registers thousands of implementations of composite operators, and takes them back. The function that does
so evaluates its annotations each time, and the set of these operators is made anew: together, half of the time.
"""

import __future__

import functools
import inspect
import textwrap

import torch
from torch.export import exported_program


def without_annotations(function):
    """The same function, whose inner functions do not evaluate their annotations."""
    source = textwrap.dedent(inspect.getsource(function))
    code = compile(source, inspect.getfile(function), "exec", __future__.annotations.compiler_flag)
    made = {}
    exec(code, function.__globals__, made)
    return made[function.__name__]


def make_exports_quick():
    """Replace both in torch; the set of operators has another name in some versions, and is left alone there."""
    torch._ops.OperatorBase.py_impl = without_annotations(torch._ops.OperatorBase.py_impl)
    if collect := getattr(exported_program, "_collect_all_valid_cia_ops", None):
        exported_program._collect_all_valid_cia_ops = functools.cache(collect)
