"""``Certified``: a model that returns each prediction with its certified radius, for serving and export."""

import copy
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from cheaplip.certificate.constants import Float64Constants, exporting
from cheaplip.certificate.content import checksum, of_model
from cheaplip.certificate.radius import _Classifier, _classifier
from cheaplip.domain import Domain
from cheaplip.errors import CertificateError
from cheaplip.lipschitz.bounds.ranges import output_interval
from cheaplip.lipschitz.bracket import Bracket
from cheaplip.lipschitz.certifiable import check_bracket
from cheaplip.lipschitz.fingerprint import borders
from cheaplip.lipschitz.reading.chain import Chain
from cheaplip.lipschitz.reading.operations import Interval
from cheaplip.lipschitz.reading.tracer import read

__all__ = ["Certified"]

_PARTS = ("weights", "domain", "bounds")  # of the fingerprint, in order
_REMEDY = "bracket the model as it is now, and make a new Certified"
_SIZES = (0.01, 0.1, 1.0, 10.0, 100.0)  # of the inputs by which two readings of a model are compared


class Certified(nn.Module):
    r"""A classifier that returns each prediction with its certified radius; it can be saved and exported.

    It computes what :func:`certified_predictions` does in one forward pass in float64, with plain tensor operations, so
    that torch.export and ONNX take it, with both outputs. It holds a copy of the model, which does not change when the
    original is trained on. An input outside the domain, or with NaN, has radius 0.

    The certificate holds for the weights, the domain and the bounds that it was made with. Their fingerprint is part of
    the state. It is compared with what the module holds at each call, at ``state_dict`` and ``load_state_dict``, when a
    saved or copied module is read, and before an export. Weights that were changed, or rounded by ``.float()`` or
    ``.half()``, are refused, and so is the state of a certificate for another model or domain. Under ``torch.compile``,
    where nothing can be refused, all radii are 0 instead.

    For ONNX, pass this module itself to ``torch.onnx.export(…, dynamo=True)``, not a program that was exported from it:
    convolutions are then written as matrix products, because onnxruntime has no convolution in float64. Nor has it
    average pooling, adaptive max pooling, linear upsampling, softplus or exact GELU in float64: serve models with those
    by torch.export.

    Args:
        model: from inputs (B, \*input) to logits (B, classes); used in evaluation mode.
        bracket: of this model, 2 → 2.
        pairs: as in :func:`certified_predictions`.

    Raises:
        TypeError: ``bracket`` is no bracket.
        ValueError: the bracket proves nothing or is another model's, or the outputs are not logits.

    Example:
        >>> from cheaplip import bracket
        >>> model = nn.Linear(2, 2)
        >>> _ = model.load_state_dict({"weight": torch.tensor([[3.0, 4.0], [-3.0, -4.0]]), "bias": torch.zeros(2)})
        >>> prediction, radius = Certified(model, bracket(model, shape=(2,)))(torch.tensor([[-3.0, -4.0]]))
        >>> prediction.item(), round(radius.item(), 6)
        (1, 5.0)
    """

    chain: Chain
    lipschitz: Tensor
    fingerprint: Tensor

    def __init__(self, model: nn.Module, bracket: Bracket, *, pairs: Tensor | None = None) -> None:
        super().__init__()
        check_bracket(bracket)
        self.model = copy.deepcopy(model).requires_grad_(False).eval()
        self.domain: Domain | None = copy.deepcopy(bracket.domain)
        classifier = _classifier(self.model, bracket, pairs)
        self.chain = classifier.chain
        self.register_buffer("lipschitz", classifier.lipschitz)
        self.register_buffer("fingerprint", self._present_fingerprint())
        self.register_load_state_dict_post_hook(_check_loaded)  # type: ignore[no-untyped-call]
        self._shape, self._answers = self.chain.shape, _answers(self.chain)
        self.eval()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        r"""Return predictions, (B,) int64, and Euclidean radii, (B,) float64, for inputs (B, \*input).

        Raises:
            CertificateError: weights, domain or bounds are not those that the certificate was made for.
        """
        classifier = _Classifier(self.chain, self.lipschitz, self.domain)
        if exporting():  # ``named_buffers``, which torch.export calls before, has checked
            with Float64Constants():
                return classifier(x)
        if torch.compiler.is_compiling():  # a compiled program cannot raise
            prediction, radius = classifier(x)
            return prediction, torch.where((self._present_fingerprint() == self.fingerprint).all(), radius, 0.0)
        self._check()
        return classifier(x)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the chain, which refers to the weights of this very module."""
        return {name: value for name, value in self.__dict__.items() if name != "chain"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read the chain again, from the module's own copy of the model.

        Raises:
            CertificateError: the model computes something else than when the certificate was made.
        """
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        low, high = self._answers
        self.chain = read(self.model, self._shape)
        self._check()
        again = _answers(self.chain)
        if bool(((low > again[1]) | (high < again[0])).any()):
            raise CertificateError(
                "the model of this Certified computes something else than when the certificate was made: its code or "
                f"an attribute has changed; {_REMEDY}"
            )

    def named_buffers(
        self, prefix: str = "", recurse: bool = True, remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Tensor]]:
        """Check the fingerprint, then do what every module does; torch.export calls this before it traces."""
        if type(self.fingerprint.clone()) is Tensor:  # otherwise tracing has begun, and tensors have no values
            self._check()
        return super().named_buffers(prefix, recurse, remove_duplicate)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        self._check()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Refuse the state of another certificate before anything is loaded."""
        given, own = state_dict.get(f"{prefix}fingerprint"), self.fingerprint
        if not isinstance(given, Tensor) or given.shape != own.shape:
            raise CertificateError(
                f"state: expected that of a Certified, with its fingerprint, got {len(state_dict)} entries without it: "
                "load the weights into the model first, then bracket it and make a new Certified"
            )
        bounds = checksum([state_dict[f"{prefix}lipschitz"]]) if f"{prefix}lipschitz" in state_dict else given[2]
        same = torch.stack([given[0] == own[0].to(given), given[1] == own[1].to(given), given[2] == bounds.to(given)])
        _refuse_unless(same, "state: expected that of a certificate for this model and domain, got another one's")
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _check(self) -> None:
        """Refuse to go on with anything but what the certificate was made for."""
        if self.lipschitz.dtype != torch.float64:
            raise CertificateError(
                f"a certificate holds for the weights it was made for, got them converted to {self.lipschitz.dtype}: "
                "convert the model first, then bracket it and make a new Certified"
            )
        _refuse_unless(
            self._present_fingerprint() == self.fingerprint,
            "a certificate holds for the weights, the domain and the bounds it was made for, got changed",
        )

    def _present_fingerprint(self) -> Tensor:
        """Return a checksum for each of :data:`_PARTS`, (3,) int64."""
        device = self.lipschitz.device
        parts = (of_model(self.model), borders(self.domain, device), [self.lipschitz])
        return torch.stack([checksum(part).to(device) for part in parts])


def _check_loaded(module: nn.Module, _: object) -> None:
    assert isinstance(module, Certified)
    module._check()


def _refuse_unless(same: Tensor, problem: str) -> None:
    if bool(same.all()):
        return
    other = " and ".join(name for name, equal in zip(_PARTS, same.tolist(), strict=True) if not equal)
    raise CertificateError(f"{problem} {other}: {_REMEDY}")


def _answers(chain: Chain) -> Interval:
    """Enclose the outputs for a few inputs, by which two readings of a model are compared."""
    wave = torch.sin(torch.arange(1.0, 1.0 + math.prod(chain.shape), dtype=torch.float64, device=chain.device))
    x = torch.stack([size * wave for size in _SIZES]).reshape(-1, *chain.shape)
    low, high = output_interval(chain, x)
    return low.cpu(), high.cpu()
