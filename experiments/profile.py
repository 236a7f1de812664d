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
    from datamodules.noise.profile import Pair, Profile, Table
    from datamodules.parting import Item

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


def compared(profiles: "dict[str, Profile]", found: "dict[str, Table]") -> Any:
    """A row for each channel and bin of intensity: its share of the channel's values, predicted and found variance.

    And for each bin over all channels, as channel ``all``. What is predicted of pictures is the mean over their values,
    each by its group, intensity and texture.
    """
    import numpy as np
    import pandas as pd

    from datamodules.noise.moments import BINS

    predicted = sum((table.count * np.array(profiles[name].variance)).sum(-1) for name, table in found.items())
    count, squares = (sum(table.sums[part].sum(-1) for table in found.values()) for part in (0, 1))
    rows = []
    names = [*range(len(count)), "all"]
    for channel, *sums in zip(names, *([*t, t.sum(0)] for t in (count, predicted, squares)), strict=True):
        for bin_, (values, ours, theirs) in enumerate(zip(*sums, strict=True)):
            if values:
                rows.append((channel, (bin_ + 0.5) / BINS, values / sums[0].sum(), ours / values, theirs / values))
    return pd.DataFrame(rows, columns=["channel", "intensity", "share", "predicted", "found"])


def figure(profiles: "dict[str, Profile]", rows: Any) -> Any:
    """The profiles by intensity and by texture; what they predict of others beside what is found; correlation."""
    import matplotlib
    import numpy as np
    import torch
    import torch.nn.functional as F
    from matplotlib.figure import Figure

    from datamodules.noise.moments import BINS
    from datamodules.noise.profile import TEXTURES
    from experiments.plots import COLOURS, STYLE

    centres, middle = (np.arange(BINS) + 0.5) / BINS, TEXTURES // 2
    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(19, 4.6))
        curves, rough, check, near_ = drawn.subplots(1, 4)
        for index, (name, profile) in enumerate(profiles.items()):
            style = {"color": COLOURS[index % len(COLOURS)], "ls": ("-", "--", ":")[index // len(COLOURS) % 3]}
            deviation = np.sqrt(np.mean(profile.variance, axis=0)) * 255  # [BINS, TEXTURES]
            curves.plot(centres, deviation[:, middle], label=name, **style)
            rough.plot(2.0 ** (np.arange(TEXTURES) - 1.5), deviation[BINS // 4 : BINS * 3 // 4].mean(0), **style)
            kernel = torch.tensor(profile.kernel)  # [C, C, K, K]
            side = kernel.shape[-1]
            each = [F.conv2d(k[None], k[:, None], padding=side - 1, groups=len(k))[0].sum(0) for k in kernel]
            alike = torch.stack(each).sum(0)  # covariance by pixels down and across, over all channels
            near_.plot(alike[side - 1, side - 1 :] / alike[side - 1, side - 1], label=name, **style)
        for channel, group in rows.groupby("channel", sort=False):
            colour = {0: "#D55E00", 1: "#009E73", 2: "#0072B2"}.get(channel, "0.2")
            name = "all channels" if channel == "all" else f"channel {channel}"
            found = group["found"].pow(0.5) * 255
            check.plot(group["intensity"], found, "o", color=colour, label=f"found, {name}")
            check.plot(group["intensity"], group["predicted"].pow(0.5) * 255, color=colour, label="predicted")
        curves.set(
            title=f"profiles where neighbours differ by {2 ** (middle - 2)} to {2 ** (middle - 1)}",
            xlabel="clean intensity",
            ylabel="deviation of the noise, 0–255 scale",
            ylim=(0, None),
        )
        rough.set(title="profiles at middle intensities", xlabel="deviation of 3×3 clean pixels", ylim=(0, None))
        rough.set_xscale("log")
        check.set(title="pictures that were not fitted", xlabel="clean intensity", ylim=(0, None))
        near_.set(title="correlation of neighbours in a row", xlabel="pixels apart")
        curves.legend(fontsize=6, ncol=3, loc="lower center")
        check.legend(fontsize=7, loc="lower center")
    return drawn


@command("profile")
def main(cfg: DictConfig) -> None:
    from hydra.utils import instantiate

    from datamodules.noise import profile
    from datamodules.parting import grouped
    from experiments import plots

    splits = instantiate(cfg.data.splits)
    if not splits.train or not all(item.noisy and item.clean for item in splits.train):
        choice = HydraConfig.get().runtime.choices["data"]
        raise UserError(f"data={choice}: profiles are fitted to pairs, which data=pairs has")
    groups = {name: Pairs(items, cfg.channels) for name, items in grouped(splits.train, cfg.data.groups).items()}
    fitted = profile.fit(groups)
    for name, one in fitted.items():
        log.info(f"fitted      {name}: {len(groups[name])} pictures, σ = {one.sigma:.2f}")
    parts, pixels = [one.pixels * one.sigma**2 for one in fitted.values()], sum(one.pixels for one in fitted.values())
    log.info(f"strength    noise=gaussian noise.sigma={(sum(parts) / pixels) ** 0.5:.3f} is as strong as all of them")
    others = grouped([*splits.val, *splits.test], cfg.data.groups)
    if left := sorted(set(others) - set(fitted)):
        log.info(f"not checked {', '.join(left)}: no picture of them was fitted")
    others = {name: items for name, items in others.items() if name in fitted}
    if not others:
        raise UserError("data.groups: no group has pictures both to fit and to check; group by less, or split anew")
    tables = {name: profile.Table(cfg.channels, Pairs(items, cfg.channels)) for name, items in others.items()}
    rows = compared(fitted, tables).query("share >= @SHARE")
    run_dir = near(HydraConfig.get().runtime.output_dir)
    profile.save(run_dir / "profiles.json", fitted)
    plots.save(figure(fitted, rows), run_dir / "profiles.png")
    rows["ratio"] = rows["predicted"] / rows["found"]
    log.info(f"checked     {sum(map(len, others.values()))} other pictures, bins of at least {SHARE:.0%} of the values")
    together = rows["channel"] == "all"
    for title, ratio in (("together", rows["ratio"][together]), ("by channel", rows["ratio"][~together])):
        inside = f"within 30 % in {ratio.between(0.7, 1.3).sum()} of {len(ratio)} bins"
        log.info(f"{title:<12}predicted variance / found {ratio.min():.2f} to {ratio.max():.2f}, {inside}")
    log.info(f"profiles    {run_dir / 'profiles.json'}\nfigure      {run_dir / 'profiles.png'}")


if __name__ == "__main__":
    main()
