"""Distances between images in the features of a trained network: LPIPS, and losses made of such features."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from denoisers.features import BACKBONES, Net, backbone_file, load, read_weights

# what LPIPS compares: tap → its channels
TAPS: dict[Net, dict[str, int]] = {
    "squeeze": {"relu1": 64, "fire3": 128, "fire5": 256, "fire6": 384, "fire7": 384, "fire8": 512, "fire9": 512},
    "alex": {"relu1": 64, "relu2": 192, "relu3": 384, "relu4": 256, "relu5": 256},
    "vgg": {"relu1_2": 64, "relu2_2": 128, "relu3_3": 256, "relu4_3": 512, "relu5_3": 512},
}


def layer_distance(a: Tensor, b: Tensor, head: Tensor) -> Tensor:
    """One layer's share of LPIPS: activations [B, C, h, w] twice, weights [1, C, 1, 1] → [B].

    Each pixel's vector of channels is brought to length 1; one of zeros stays.
    """
    difference = F.normalize(a, dim=1, eps=1e-10) - F.normalize(b, dim=1, eps=1e-10)
    with torch.autocast(a.device.type, enabled=False):
        return F.conv2d(difference.square(), head).mean(dim=(1, 2, 3))  # a sum over channels, in their order in memory


class LPIPS(nn.Module):
    """Learned perceptual distance (Zhang et al., CVPR 2018), version 0.1, frozen: 0 for equal images, larger is worse.

    The paper's scaling layer, of images in [-1, 1], is ImageNet's normalisation of the same images in [0, 1].

    Args:
        net: whose features: ``squeeze``, ``alex`` or ``vgg``; images of at least 17×17, 31×31 or 16×16 pixels.
        directory: holds ``NET.backbone.pth`` (torchvision's weights) and ``NET_lin_v0.1.pth`` (the paper's heads).

    Raises:
        ValueError: an unknown network; as CheckpointError: a file is missing, damaged or of something else.
    """

    def __init__(self, *, net: Net = "squeeze", directory: str | Path) -> None:
        super().__init__()
        taps = TAPS.get(net, {})  # load refuses what is unknown
        self.features = load(net, list(taps), directory)
        heads = {f"lin{i}.model.1.weight": torch.empty(1, taps[tap], 1, 1) for i, tap in enumerate(taps)}
        path = heads_file(net, directory)
        remedy = (
            f"it is lpips/weights/v0.1/{net}.pth of https://github.com/richzhang/PerceptualSimilarity, and comes with "
            f"torchmetrics as functional/image/lpips_models/{net}.pth"
        )
        weights = read_weights(path, heads, f"LPIPS on {BACKBONES[net].title}", remedy)
        for tap, head in zip(taps, heads, strict=True):
            self.register_buffer(f"{tap}_head", weights[head].float(), persistent=False)

    @staticmethod
    def missing(*, net: Net = "squeeze", directory: str | Path) -> list[Path]:
        """Which of the two files are not there."""
        return [path for path in (backbone_file(net, directory), heads_file(net, directory)) if not path.is_file()]

    def forward(self, estimate: Tensor, clean: Tensor) -> Tensor:
        """[B, 1 or 3, H, W] twice, in [0, 1] → [B]; gradients flow to the estimate only.

        Raises:
            ValueError: see :meth:`denoisers.features.Features.forward`.
        """
        with torch.no_grad():
            theirs = self.features(clean)
        ours = self.features(estimate)
        layers = [layer_distance(ours[tap], theirs[tap], self.get_buffer(f"{tap}_head")) for tap in ours]
        return torch.stack(layers).sum(dim=0)


class LPIPSLoss(LPIPS):
    """:class:`LPIPS`, mean over the batch."""

    def forward(self, estimate: Tensor, clean: Tensor) -> Tensor:
        return super().forward(estimate, clean).mean()


class PerceptualLoss(nn.Module):
    """The distance of estimate and clean image in the features of one layer (Johnson et al., ECCV 2016).

    Args:
        distance: (features, features) → scalar: mean squared difference in the paper.
        net: whose features: ``vgg`` in the paper.
        layer: by name: ``relu1_1`` … ``relu5_3`` of VGG16; ``relu3_3`` in the paper, for images of at least 4×4 pixels.
        directory: holds ``NET.backbone.pth`` (torchvision's weights).

    Raises:
        ValueError: an unknown network or layer; as CheckpointError: the file is missing, damaged or of something else.
    """

    def __init__(
        self, *, distance: nn.Module | None = None, net: Net = "vgg", layer: str = "relu3_3", directory: str | Path
    ) -> None:
        super().__init__()
        self.distance = distance or nn.MSELoss()
        self.layer = layer
        self.features = load(net, [layer], directory)

    def forward(self, estimate: Tensor, clean: Tensor) -> Tensor:
        """[B, 1 or 3, H, W] twice, in [0, 1] → scalar; gradients flow to the estimate only.

        Raises:
            ValueError: see :meth:`denoisers.features.Features.forward`.
        """
        with torch.no_grad():
            theirs = self.features(clean)[self.layer]
        return self.distance(self.features(estimate)[self.layer], theirs)


def heads_file(net: Net, directory: str | Path) -> Path:
    """Where LPIPS's heads for a network are looked for."""
    return Path(directory).expanduser().resolve() / f"{net}_lin_v0.1.pth"
