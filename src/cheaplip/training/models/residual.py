"""Residual networks for small images: ``resnet:DEPTH,WIDTH``."""

from collections.abc import Callable

from torch import Tensor, nn

from cheaplip.errors import ModelError

__all__ = ["ResidualBlock", "depth_and_width", "residual_network"]


class ResidualBlock(nn.Module):
    """φ(skip(x) + BN(conv(φ(BN(conv x))))), with two 3 × 3 convolutions.

    Where the shape changes, skip is a strided 1 × 1 convolution with batch norm, and else the identity.

    Args:
        channels: of the input.
        out: channels of the output.
        stride: of the first convolution and of the skip.
        activation: makes φ.

    Reference:
        He, Zhang, Ren, Sun 2016, "Deep residual learning for image recognition", Figure 2 and option B.
    """

    def __init__(self, channels: int, out: int, stride: int, activation: Callable[[], nn.Module]) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride, padding=1, bias=False),
            nn.BatchNorm2d(out),
            activation(),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            self.skip = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.activation = activation()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, channels, H, W) to (B, out, ⌈H / stride⌉, ⌈W / stride⌉)."""
        y: Tensor = self.activation(self.skip(x) + self.body(x))
        return y


def depth_and_width(spec: str) -> tuple[int, int]:
    """Parse ``resnet:DEPTH,WIDTH``.

    Raises:
        ModelError: there are not two numbers, the depth is not 6 n + 2, or the width is not positive.
    """
    try:
        depth, width = (int(part) for part in spec.partition(":")[2].split(","))
    except ValueError:
        depth = width = 0
    if depth < 8 or depth % 6 != 2 or width < 1:
        raise ModelError(
            f"model {spec!r}: expected resnet:DEPTH,WIDTH with a depth of 6 n + 2, such as 8, 14 or 20, and a positive "
            "width, such as resnet:20,16"
        )
    return depth, width


def residual_network(
    shape: tuple[int, ...], outputs: int, depth: int, width: int, activation: Callable[[], nn.Module]
) -> nn.Sequential:
    """Make the residual network of He et al. for small images, grey or in colour.

    A convolution, three stages of n blocks with 1, 2 and 4 times ``width`` channels, of which the second and the third
    halve height and width, the average over all pixels, and a linear layer.

    Args:
        shape: (C, H, W) of one image.
        outputs: number of outputs.
        depth: 6 n + 2, the number of layers with weights, skips left out.
        width: channels of the first stage.
        activation: makes φ.

    Reference:
        He, Zhang, Ren, Sun 2016, Section 4.2.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(shape[0], width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        activation(),
    ]
    channels = width
    for stage in range(3):
        out = width * 2**stage
        for block in range((depth - 2) // 6):
            layers.append(ResidualBlock(channels, out, 2 if stage and not block else 1, activation))
            channels = out
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, outputs))
