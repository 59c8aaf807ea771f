"""Ask cheaplip about a random model, and let the judges look for a statement that is false."""

import contextlib
import functools
import math
import sys
import time
import traceback
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
from torch import nn

import cheaplip
from cheaplip import LipschitzBound, bracket, certified_radius, errors
from cheaplip.lipschitz import pairwise, read
from cheaplip.lipschitz.bounds import lipsdp
from cheaplip.lipschitz.bounds.best import upper_bound
from cheaplip.lipschitz.reading.operations import Elementwise
from proofs import judges, rational
from proofs.layers import Dice
from proofs.models import FAMILY, random_model
from proofs.semidefinite import semidefinite_optimum

PACKAGE = str(Path(cheaplip.__file__).parent)
FALSE, CRASH, REFUSED, PROVED = "false", "crash", "refused", "proved"


class Verdict(NamedTuple):
    """What came of one model.

    Attributes:
        outcome: of the upper end: "proved" or "refused", or the worse of "false" and "crash" if anything was.
        gap: upper / lower, where both are positive and finite.
        notes: a line for each false statement and each crash, and the reason of a refusal.
    """

    seed: int
    layers: tuple[str, ...]
    outcome: str
    gap: float | None
    notes: tuple[str, ...]
    seconds: float


class _Tracing:
    """Reads each architecture once: tracing takes many times as long as all else, and chains follow the weights.

    With weights for which the output is constant, every trace agrees with its model: it is not kept.
    """

    def __init__(self):
        self.model, self.answer = None, None

    def __call__(self, model, shape):
        if self.model is not model:
            try:
                self.answer = read(model, shape)
            except errors.UnsupportedLayerError as error:
                self.answer = error
            self.model = model if self.tells() else None
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    @torch.no_grad()
    def tells(self):
        """Whether the chain that was read moves with its input."""
        if isinstance(self.answer, Exception):
            return True
        x = torch.randn(4, *self.answer.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        y = self.answer(x)
        return bool((y != y[:1]).any())


_TRACING = _Tracing()


@contextlib.contextmanager
def traced_once():
    """Let everything in cheaplip that reads a model read each architecture once."""
    with contextlib.ExitStack() as stack:
        for module in _readers(len(sys.modules)):
            stack.enter_context(mock.patch.object(module, "read", _TRACING))
        yield


@functools.lru_cache(maxsize=1)
def _readers(loaded):
    """The modules that call ``read``, among so many that are loaded: to look through all of them takes milliseconds."""
    return [m for name, m in sys.modules.items() if name.startswith("cheaplip.") and getattr(m, "read", None) is read]


def examine(seed: int) -> Verdict:
    """Examine the model of a seed. The first of every fifth family is traced by every call, as users' models are."""
    started = time.process_time()
    with contextlib.nullcontext() if seed % (5 * FAMILY) == 0 else traced_once():
        examination = _Examination(seed)
        examination.run()
    notes = examination.notes
    kinds = {note.partition(":")[0] for note in notes}
    outcome = next(kind for kind in (FALSE, CRASH, REFUSED, PROVED) if kind in kinds or kind == PROVED)
    seconds = time.process_time() - started
    return Verdict(seed, examination.case.layers, outcome, examination.gap, tuple(notes), seconds)


class _Examination:
    def __init__(self, seed):
        self.case = random_model(seed)
        self.dice = Dice(seed + (1 << 41))
        self.generator = torch.Generator().manual_seed(seed)
        self.notes, self.gap, self.findings = [], None, []

    def run(self):
        case = self.case
        b = self.attempt("bracket", self.bracket)
        if b is None:
            return
        self.exact = judges.Exact(case.model)
        self.x = judges.points(case.domain, case.shape, 32, self.generator)
        if len(self.x) < 2:
            return
        self.findings = [
            judges.largest_slope(self.exact, self.x, case.norm),
            judges.largest_quotient(self.exact, self.x, case.domain, case.norm),
            judges.largest_jump(self.exact, self.x, case.norm) if self.dice.chance(0.3) else None,
        ]
        self.judge_bracket(b)
        if b.upper == math.inf:
            return
        self.attempt("method", self.judge_method)
        self.attempt("published", self.judge_published)
        if case.norm == 2:
            if case.domain is None and self.dice.chance(0.5):
                self.attempt("LipschitzBound", self.judge_trainable)
            if self.dice.chance(0.5):
                self.attempt("certified_radius", lambda: self.judge_radius(b))
            if case.weights == "ordinary" and self.dice.chance(0.01):
                self.judge_multipliers()

    def attempt(self, what, function):
        """Call a function; note a refusal or a crash."""
        try:
            return function()
        except Exception as error:  # what cheaplip may raise is what is examined
            message = " ".join(str(error).split())[:200]
            kind = REFUSED if _is_meant_for_users(error) else CRASH
            if kind == CRASH:
                at = traceback.extract_tb(error.__traceback__)[-1]
                message = f"{type(error).__name__} in {Path(at.filename).name}:{at.lineno}: {message}"
            self.notes.append(f"{kind}: {what}: {message}")
            return None

    def false(self, what):
        self.notes.append(f"{FALSE}: {what}")

    def bracket(self):
        case = self.case
        method = "lipsdp" if self.has_many_regions() and self.dice.chance(0.9) else None
        return bracket(case.model, case.domain, case.shape, case.norm, steps=1, seconds=0.02, method=method)

    def has_many_regions(self):
        """Whether cheaplip would enumerate regions by linear programs, which takes up to seconds."""
        case = self.case
        if case.norm != 2 or math.prod(case.shape) == 1 or case.seed % (5 * FAMILY) == 0:
            return False
        try:
            links = _TRACING(case.model, case.shape).links
        except errors.UnsupportedLayerError:
            return False
        return sum(math.prod(link.shape) for link in links if isinstance(link.operation, Elementwise)) <= 12

    def judge(self, what, upper):
        """Compare an upper end with all that was found."""
        for finding in self.findings:
            if finding is not None and judges.exceeds(finding, upper):
                self.false(f"{what} {upper:.9g} is below a {finding.how} of {finding.value:.9g}")

    def judge_bracket(self, b):
        case = self.case
        if math.isnan(b.lower) or math.isnan(b.upper) or not 0 <= b.lower <= b.upper:
            self.false(f"lower {b.lower!r} and upper {b.upper!r} of the bracket")
        if b.upper == math.inf:
            self.notes.append(f"{REFUSED}: {b.reason[:200]}" if b.reason else f"{CRASH}: upper is inf without a reason")
        elif b.lower > 0:
            self.gap = b.upper / b.lower
        if case.domain is not None and not all(case.domain.contains(w[None]) for w in b.witness):
            self.false("the witness lies outside the domain")
        self.judge(f"upper ({b.method})", b.upper)
        if rational.is_rational(case.model) and case.norm == 2:
            self.judge_exactly(b)
        elif b.lower > 0:
            self.judge_lower(b)

    def judge_lower(self, b):
        found = judges.witness(self.exact, *b.witness, self.case.norm)
        if judges.falls_short(found, b.lower):
            self.false(f"lower {b.lower:.9g} is above the quotient of its witness, {found.value:.9g}")

    def judge_exactly(self, b):
        """Compare both ends with what rational arithmetic finds, where nothing is rounded."""
        model, domain = self.case.model, self.case.domain
        quotient = rational.square_of_witness(model, *b.witness)
        if Fraction(b.lower) ** 2 > quotient:
            self.false(f"lower {b.lower:.9g} is above the exact quotient of its witness, {float(quotient) ** 0.5:.9g}")
        steepest = quotient
        for _ in range(1 if self.x[0].numel() == 1 else 6):
            start = rational.exact_vector(self.x[int(self.dice.number(0, len(self.x)))])
            direction = [Fraction(v) for v in self.dice.normal(len(start)).tolist()]
            ends = rational.range_inside(domain, self.case.shape, start, direction)
            if ends != "outside":
                steepest = max(steepest, rational.square_of_steepest(model, start, direction, *ends))
        if b.upper < math.inf and Fraction(b.upper) ** 2 < steepest:
            self.false(f"upper {b.upper:.9g} ({b.method}) is below an exact slope of {_root(steepest):.9g}")

    def judge_method(self):
        """Ask for one bound by its name."""
        case = self.case
        methods = ("lipsdp", "closed-form", "fourier", "norms", "exact") if case.norm == 2 else ("absolute", "norms")
        method = self.dice.one_of(*methods)
        if method == "exact" and not (rational.is_rational(case.model) and case.shape == (1,)):
            method = "norms"
        upper = upper_bound(_TRACING(case.model, case.shape), case.norm, case.domain, method, seconds=0.01)
        self.judge(f"upper_bound by {method}", upper.value)

    def judge_published(self):
        """Ask for a bound that others have published; it is to hold in the domain, too."""
        case = self.case
        methods = ("autolip", "zou", "seqlip", "combettes-pesquet") if case.norm == 2 else ("autolip",)
        method = Dice(case.seed + (1 << 42)).one_of(*methods)
        upper = upper_bound(_TRACING(case.model, case.shape), case.norm, None, method, seconds=0.01)
        self.judge(f"upper_bound by {method}", upper.value)

    def judge_multipliers(self):
        """No multipliers can prove more than the best ones, which a solver finds."""
        try:
            weights, slopes = _TRACING(self.case.model, self.case.shape).dense()
        except errors.UnsupportedLayerError:
            return
        if not all(bool((torch.as_tensor(high) > torch.as_tensor(low)).all()) for low, high in slopes):
            return  # a neuron that is linear wants an infinite multiplier, which a solver does not find
        weights = [weight.detach() for weight in weights]
        product = lipsdp.product(weights, slopes)
        if 0 < sum(len(weight) for weight in weights[:-1]) <= 25 and 0.01 < product < 1e4:  # where solvers are exact
            proved = lipsdp.certify(weights, slopes, lipsdp.optimise(weights, slopes, seconds=0.05)).value
            best = semidefinite_optimum(weights, slopes)
            if proved < best - 1e-4 * product:
                self.false(f"multipliers prove {proved:.9g}, the solver's best ones only {best:.9g}")

    def judge_trainable(self):
        """A LipschitzBound, also after an attribute of the model has changed."""
        bound = LipschitzBound(self.case.model, self.case.shape)
        self.judge("LipschitzBound", float(bound().detach()))
        if self.dice.chance(0.3):
            with changed_attribute(self.case.model, self.dice) as what:
                self.exact = judges.Exact(self.case.model)
                if what and self.runs():
                    _TRACING.model = None  # what is read anew from here on is to be the changed model
                    self.findings = [judges.largest_slope(self.exact, self.x, 2)]
                    self.attempt("LipschitzBound", lambda: self.judge(f"LipschitzBound after {what}", float(bound())))
            _TRACING.model = None
            self.exact = judges.Exact(self.case.model)

    def runs(self):
        """Whether the model still takes its inputs, after a change of which no layer behind it knows."""
        try:
            self.exact(self.x)
        except RuntimeError:
            return False
        return True

    def judge_radius(self, b):
        case = self.case
        x = self.x[:6].to(next(case.model.parameters(), torch.zeros(())).dtype)
        y = self.exact(x.double())
        if y.dim() != 2 or y.shape[1] < 2 or not bool(torch.isfinite(x).all()):
            return
        if case.domain is not None and not case.domain.contains(x):
            x = x[[case.domain.contains(row[None]) for row in x]]
        if not len(x):
            return
        few = y.shape[1] <= 4 and self.dice.chance(0.3)  # each pair of outputs takes some milliseconds
        pairs = pairwise(case.model, case.domain, case.shape, seconds=0.01) if few else None
        radius = certified_radius(case.model, x, b, pairs=pairs)
        self.judge_distances("certified radius", x, radius)
        if self.dice.chance(0.7):
            self.attempt("local", lambda: self.judge_local(x[:3], b))

    def judge_local(self, x, b):
        """Radii from bounds in the ball around each input."""
        try:
            radius = certified_radius(self.case.model, x, b, local=True)
        except errors.UnsupportedLayerError:
            return  # the model cannot be written as matrices
        if not bool((radius >= certified_radius(self.case.model, x, b)).all()):
            self.false(f"local radii of {radius.tolist()} are below those without")
        self.judge_distances("local radius", x, radius)

    def judge_distances(self, what, x, radius):
        """Look for inputs of another class, and for a radius that no class has: NaN, or below 0."""
        if not bool((radius >= 0).all()):
            self.false(f"{what}: {radius.tolist()}")
        distance = judges.changed_class(self.exact, x, radius, self.case.domain, self.generator)
        if distance is not None:
            self.false(f"another class at distance {distance:.9g}, within a {what}")


CHANGES = {
    nn.LeakyReLU: ("negative_slope", 12.5),
    nn.ELU: ("alpha", 30.0),
    nn.CELU: ("alpha", 2.0**-7),
    nn.Softplus: ("beta", 0.1),
    nn.Hardtanh: ("max_val", 5.0),
    nn.BatchNorm1d: ("eps", 0.0),
    nn.BatchNorm2d: ("eps", 0.0),
    nn.Conv1d: ("stride", (1,)),
    nn.Conv2d: ("stride", (1, 1)),
    nn.AvgPool2d: ("count_include_pad", False),
    nn.Upsample: ("scale_factor", 3.0),
}


@contextlib.contextmanager
def changed_attribute(model, dice):
    """Change an attribute of one layer while the block lasts; give its name, or None where there is none to change."""
    layers = [(path, layer) for path, layer in model.named_modules() if type(layer) in CHANGES]
    if not layers:
        yield None
        return
    path, layer = dice.one_of(*layers)
    name, value = CHANGES[type(layer)]
    before = getattr(layer, name)
    setattr(layer, name, value)
    try:
        yield f"{path}.{name} = {value}"
    finally:
        setattr(layer, name, before)


def _is_meant_for_users(error):
    """Whether an error is one of cheaplip.errors, or one that cheaplip raises itself about an argument."""
    if type(error).__name__ in errors.__all__:
        return True
    at = traceback.extract_tb(error.__traceback__)[-1].filename
    return isinstance(error, (ValueError, TypeError)) and at.startswith(PACKAGE)


def _root(square):
    """A square root of a fraction that may be beyond float64."""
    return float(square) ** 0.5 if square < Fraction(10) ** 300 else math.inf
