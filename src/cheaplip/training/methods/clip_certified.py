"""CLIP with a proved bound: λ multiplies the largest quotient over the pairs and a proved bound of Lip(f)."""

from torch import Tensor, nn

from cheaplip.lipschitz import LipschitzBound
from cheaplip.training.methods.clip import Clip
from cheaplip.training.methods.method import Losses, Setting
from cheaplip.training.options import SharedOptions

__all__ = ["ClipCertified"]


class ClipCertified(Clip):
    """Minimise the loss plus λ times the sum of the largest quotient over the pairs and a proved bound of Lip(f)."""

    name = "clip+certified"
    adds = "what clip minimises + λ times a proved bound of Lip(f)"
    cost = "that of clip + the bound"
    group = "training with a proved bound"
    source = ""
    distributed = False

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self.bound: nn.Module = LipschitzBound(setting.network, setting.data.shape)

    @classmethod
    def holds_out(cls, options: SharedOptions) -> int:  # noqa: ARG003
        return 0

    def losses(self, network: nn.Module, x: Tensor, y: Tensor) -> Losses:
        total, fit, output = super().losses(network, x, y)
        return Losses(total + self.penalty.lam * self.bound().to(total.dtype), fit, output)
