"""Fits noise profiles to pairs: ``python -m experiments.profile data.noisy=DIR data.clean=DIR``; used by noise=profile.

A profile for each group of pictures, by folder or by what their names say of camera and setting, is fitted to the
training pairs. What the profiles say of the other pairs is compared with what is found there.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments.cli import UserError, command, near

if TYPE_CHECKING:
    from datamodules.noise.profile import Moments, Pair, Profile
    from datamodules.splits import Item

log = logging.getLogger(__name__)
SHARE = 0.01  # of the values: bins that hold fewer are not compared


class Pairs(Sequence["Pair"]):
    """The pairs of a group, decoded as they are asked for.

    Args:
        items: of the group.
        channels: 1 or 3.
    """

    def __init__(self, items: "Sequence[Item]", channels: int) -> None:
        self.items, self.channels = items, channels

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        from datamodules.images import read

        views = self.items[index].views
        return read(views["noisy"], self.channels), read(views["clean"], self.channels)


def moments(pairs: Pairs) -> "Moments":
    """What is found in the pairs of a group."""
    from datamodules.noise.profile import Moments

    found = Moments(pairs.channels)
    for noisy, clean in pairs:
        found.add(noisy, clean)
    return found


def compared(profiles: "dict[str, Profile]", found: "dict[str, Moments]") -> Any:
    """A row for each channel and bin that holds its share of values: intensity, share, predicted and found variance.

    What is predicted of pictures of several groups is the mean of their profiles, weighted by their values in the bin.
    """
    import numpy as np
    import pandas as pd

    from datamodules.noise.profile import BINS

    known = {name: moments for name, moments in found.items() if name in profiles}
    counts = np.array([moments.count for moments in known.values()])  # [G, C, BINS]
    theirs = np.array([profiles[name].variance for name in known])
    ours = np.array([np.nan_to_num(moments.variance) for moments in known.values()])
    total = counts.sum(0)
    rows = []
    for channel, bin_ in zip(*np.nonzero(total / total.sum(1, keepdims=True) >= SHARE), strict=True):
        weights = counts[:, channel, bin_] / total[channel, bin_]
        predicted, measured = (float(weights @ table[:, channel, bin_]) for table in (theirs, ours))
        share = total[channel, bin_] / total[channel].sum()
        rows.append((int(channel), (bin_ + 0.5) / BINS, share, predicted, measured))
    return pd.DataFrame(rows, columns=["channel", "intensity", "share", "predicted", "found"])


def figure(profiles: "dict[str, Profile]", rows: Any) -> Any:
    """The profiles' curves; what they predict of other pictures beside what is found; how neighbours correlate."""
    import matplotlib
    import numpy as np
    import torch
    import torch.nn.functional as F
    from matplotlib.figure import Figure

    from datamodules.noise.profile import BINS
    from experiments.plots import COLOURS, STYLE

    centres = (np.arange(BINS) + 0.5) / BINS
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(15, 4.6))
        curves, check, near_ = drawn.subplots(1, 3)
        for index, (name, profile) in enumerate(profiles.items()):
            colour, dash = COLOURS[index % len(COLOURS)], ("-", "--", ":")[index // len(COLOURS) % 3]
            mean = np.sqrt(np.mean(profile.variance, axis=0)) * 255
            curves.plot(centres, mean, dash, color=colour, label=name)
            kernel = torch.tensor(profile.kernel)  # [C, C, K, K]
            side = kernel.shape[-1]
            each = [F.conv2d(k[None], k[:, None], padding=side - 1, groups=len(k))[0].sum(0) for k in kernel]
            alike = torch.stack(each).sum(0)  # covariance by pixels down and across, over all channels
            right = alike[side - 1, side - 1 :] / alike[side - 1, side - 1]
            near_.plot(right, dash, color=colour, label=name)
        for channel, group in rows.groupby("channel"):
            colour = ("#D55E00", "#009E73", "#0072B2")[channel] if rows["channel"].nunique() > 1 else COLOURS[0]
            check.plot(
                group["intensity"], group["found"].pow(0.5) * 255, "o", color=colour, label=f"found, channel {channel}"
            )
            check.plot(group["intensity"], group["predicted"].pow(0.5) * 255, color=colour, label="predicted")
        curves.set(
            title="profiles", xlabel="clean intensity", ylabel="deviation of the noise, 0–255 scale", ylim=(0, None)
        )
        check.set(title="pictures that were not fitted", xlabel="clean intensity", ylim=(0, None))
        near_.set(title="correlation of neighbours in a row", xlabel="pixels apart")
        for panel in (curves, check):
            panel.legend(fontsize=7)
    return drawn


@command("profile")
def main(cfg: DictConfig) -> None:
    from hydra.utils import instantiate

    from datamodules.images import DataError
    from datamodules.noise import profile
    from datamodules.splits import grouped
    from experiments import plots

    splits = instantiate(cfg.data.splits)
    if not splits.train or not all(item.noisy for item in splits.train):
        choice = HydraConfig.get().runtime.choices["data"]
        raise UserError(f"data={choice}: profiles are fitted to pairs, which data=pairs has")
    fitted: dict[str, Profile] = {}
    for name, items in grouped(splits.train, cfg.data.groups).items():
        try:
            fitted[name] = profile.fit(Pairs(items, cfg.channels))
        except DataError as error:
            raise UserError(f"group {name}, {len(items)} pictures: {error}") from error
        log.info(f"fitted      {name}: {len(items)} pictures")
    others = grouped([*splits.val, *splits.test], cfg.data.groups)
    if left := sorted(set(others) - set(fitted)):
        log.info(f"not checked {', '.join(left)}: no picture of them was fitted")
    rows = compared(fitted, {name: moments(Pairs(items, cfg.channels)) for name, items in others.items()})
    run_dir = near(HydraConfig.get().runtime.output_dir)
    profile.save(run_dir / "profiles.json", fitted)
    plots.save(figure(fitted, rows), run_dir / "profiles.png")
    ratio = rows["predicted"] / rows["found"]
    log.info(
        f"checked     {sum(map(len, others.values()))} other pictures, {len(rows)} bins of at least {SHARE:.0%} of the "
        f"values: predicted variance / found {ratio.min():.2f} to {ratio.max():.2f}"
    )
    log.info(f"profiles    {run_dir / 'profiles.json'}\nfigure      {run_dir / 'profiles.png'}")


if __name__ == "__main__":
    main()
