"""What networks that were trained to name photographs see in an image: their activations, frozen.

Weights are torchvision's published files under that library's keys, each kept as ``NET.backbone.pth``.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisers.checkpoint import CheckpointError, require_same

Net = Literal["squeeze", "alex", "vgg"]
Layers = dict[str, nn.Module]  # in the order, and so with the numbers, that the published keys count

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's R, G and B in [0, 1]


class FrozenConv2d(nn.Module):
    """A convolution whose weights move with its module but are in no checkpoint, optimiser or count of parameters."""

    weight: Tensor
    bias: Tensor

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: int = 0
    ) -> None:
        super().__init__()
        self.stride, self.padding = stride, padding
        self.register_buffer("weight", torch.empty(out_channels, in_channels, kernel_size, kernel_size), False)
        self.register_buffer("bias", torch.empty(out_channels), False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, self.stride, self.padding)


class Fire(nn.Module):
    """Few channels by 1×1, then as many again by 1×1 as by 3×3, side by side; ReLU after each."""

    def __init__(self, in_channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = FrozenConv2d(in_channels, squeezed, 1)
        self.expand1x1 = FrozenConv2d(squeezed, expanded, 1)
        self.expand3x3 = FrozenConv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squeeze(x).relu()
        return torch.cat([self.expand1x1(x), self.expand3x3(x)], dim=1).relu()  # [B, 2·expanded, H, W]


def squeezenet() -> Layers:
    """SqueezeNet 1.1 (Iandola et al., arXiv:1602.07360, and its authors' later release): relu1, fire2 … fire9."""

    def pool() -> nn.Module:
        return nn.MaxPool2d(3, 2, ceil_mode=True)

    return {
        "conv1": FrozenConv2d(3, 64, 3, stride=2),
        "relu1": nn.ReLU(),
        "pool1": pool(),
        "fire2": Fire(64, 16, 64),
        "fire3": Fire(128, 16, 64),
        "pool3": pool(),
        "fire4": Fire(128, 32, 128),
        "fire5": Fire(256, 32, 128),
        "pool5": pool(),
        "fire6": Fire(256, 48, 192),
        "fire7": Fire(384, 48, 192),
        "fire8": Fire(384, 64, 256),
        "fire9": Fire(512, 64, 256),
    }


def alexnet() -> Layers:
    """AlexNet in the width of Krizhevsky, arXiv:1404.5997: relu1 … relu5."""
    return {
        "conv1": FrozenConv2d(3, 64, 11, stride=4, padding=2),
        "relu1": nn.ReLU(),
        "pool1": nn.MaxPool2d(3, 2),
        "conv2": FrozenConv2d(64, 192, 5, padding=2),
        "relu2": nn.ReLU(),
        "pool2": nn.MaxPool2d(3, 2),
        "conv3": FrozenConv2d(192, 384, 3, padding=1),
        "relu3": nn.ReLU(),
        "conv4": FrozenConv2d(384, 256, 3, padding=1),
        "relu4": nn.ReLU(),
        "conv5": FrozenConv2d(256, 256, 3, padding=1),
        "relu5": nn.ReLU(),
    }


def vgg16() -> Layers:
    """VGG16 (Simonyan & Zisserman, ICLR 2015), five blocks of convolutions 3×3: relu1_1 … relu5_3."""
    layers: Layers = {}
    in_channels = 3
    for block, (depth, features) in enumerate([(2, 64), (2, 128), (3, 256), (3, 512), (3, 512)], start=1):
        for number in range(1, depth + 1):
            layers[f"conv{block}_{number}"] = FrozenConv2d(in_channels, features, 3, padding=1)
            layers[f"relu{block}_{number}"] = nn.ReLU()
            in_channels = features
        layers[f"pool{block}"] = nn.MaxPool2d(2)
    return layers


class Backbone(NamedTuple):
    """A network by its title, its layers and the name of torchvision's file."""

    title: str
    layers: Callable[[], Layers]
    published: str

    @property
    def remedy(self) -> str:
        """Where the weights come from."""
        return f"it is torchvision's file https://download.pytorch.org/models/{self.published}"


BACKBONES: dict[Net, Backbone] = {
    "squeeze": Backbone("SqueezeNet 1.1", squeezenet, "squeezenet1_1-b8a52dc0.pth"),
    "alex": Backbone("AlexNet", alexnet, "alexnet-owt-7be5be79.pth"),
    "vgg": Backbone("VGG16", vgg16, "vgg16-397923af.pth"),
}


def smallest_input(layer: nn.Module, size: int) -> int:
    """The side of the smallest input of which a layer makes ``size`` pixels."""
    if isinstance(layer, FrozenConv2d):
        return (size - 1) * layer.stride + layer.weight.shape[-1] - 2 * layer.padding
    if isinstance(layer, nn.MaxPool2d):
        stride, kernel_size = layer.stride, layer.kernel_size
        assert isinstance(stride, int)
        assert isinstance(kernel_size, int)
        return (size - 1) * stride + kernel_size - (stride - 1 if layer.ceil_mode else 0)
    return size


class Features(nn.Module):
    """The layers of a network up to the last of ``taps``, the layers whose activations are wanted.

    Training and evaluation mode are the same, and its ``state_dict`` is empty.

    Raises:
        ValueError: a tap that is no layer, or none.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, layers: Mapping[str, nn.Module], taps: Sequence[str]) -> None:
        super().__init__()
        for tap in taps:
            if tap not in layers:
                raise ValueError(f"layer={tap!r}: must be one of {', '.join(layers)}")
        names = list(layers)
        depth = max(names.index(tap) for tap in taps) + 1
        self.taps = frozenset(taps)
        self.layers = nn.ModuleDict({name: layers[name] for name in names[:depth]})
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), False)
        self.smallest = 1
        for layer in reversed(list(self.layers.values())):
            self.smallest = max(1, smallest_input(layer, self.smallest))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """[B, 1 or 3, H, W] in [0, 1] → tap → activation [B, C, h, w], in the weights' precision, never autocast's.

        Raises:
            ValueError: another number of channels, or an image too small to have the last activation.
        """
        channels, height, width = image.shape[-3:]
        if channels not in (1, 3):
            raise ValueError(f"features are of images with 1 or 3 channels, this one has {channels}")
        if min(height, width) < self.smallest:
            raise ValueError(
                f"features up to {list(self.layers)[-1]} need at least {self.smallest}×{self.smallest} pixels, "
                f"this image has {height}×{width}"
            )
        found = {}
        with torch.autocast(image.device.type, enabled=False):
            x = (image.to(self.mean.dtype) - self.mean) / self.std  # grey becomes three equal channels here
            x = x.contiguous(memory_format=torch.channels_last)  # in which convolutions are fastest
            for name, layer in self.layers.items():
                x = layer(x)
                if name in self.taps:
                    found[name] = x
        return found


def backbone_file(net: Net, directory: str | Path) -> Path:
    """Where a network's weights are looked for."""
    return Path(directory).expanduser().resolve() / f"{net}.backbone.pth"


def load(net: Net, taps: Sequence[str], directory: str | Path) -> Features:
    """A network's features with the published weights, from ``NET.backbone.pth`` in the directory.

    Raises:
        ValueError: an unknown network or layer.
        CheckpointError: see :func:`read_weights`.
    """
    if net not in BACKBONES:
        raise ValueError(f"net={net!r}: must be one of {', '.join(BACKBONES)}")
    layers = BACKBONES[net].layers()
    features = Features(layers, taps)
    own = dict(nn.Sequential(*layers.values()).named_buffers())
    weights = read_weights(backbone_file(net, directory), own, BACKBONES[net].title, BACKBONES[net].remedy)
    for key, tensor in own.items():
        tensor.copy_(weights[key])
    return features.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def read_weights(path: Path, expected: Mapping[str, Tensor], title: str, remedy: str) -> dict[str, Tensor]:
    """The tensors of a state dict, which must have the keys and shapes of ``expected``.

    Keys may begin with ``features.``; a classifier's are left out.

    Raises:
        CheckpointError: the file is missing, damaged or holds something else; with ``remedy``, where to get it.
    """
    remedy = f"\n  {remedy}; put it there, or give the directory that holds {path.name}"
    if not path.is_file():
        raise CheckpointError(f"no weights of {title} at {path}{remedy}")
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{path} is damaged, or no file of weights: {title} cannot be read{remedy}") from error
    if not isinstance(content, dict) or not all(isinstance(tensor, Tensor) for tensor in content.values()):
        raise CheckpointError(f"{path} holds no state dict of tensors: expected that of {title}{remedy}")
    weights = {
        str(key).removeprefix("features."): tensor
        for key, tensor in content.items()
        if not str(key).startswith("classifier.")
    }
    try:
        require_same(weights, expected, f"the weights in {path}", title)
    except CheckpointError as error:
        raise CheckpointError(f"{error}{remedy}") from error
    return weights
