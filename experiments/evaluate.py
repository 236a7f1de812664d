"""Scores a denoiser: ``python -m experiments.evaluate checkpoint=RUN_OR_FILE data=bsd68 noise=sigma25``."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from experiments.cli import UserError, command, near, plain, require_known
from experiments.sources import METRICS

log = logging.getLogger(__name__)


def require_question(cfg: DictConfig) -> None:
    """Raises UserError unless it is said what is scored, and by what."""
    if (cfg.checkpoint is None) == (cfg.get("model") is None):
        raise UserError("say what is evaluated: either checkpoint=RUN_OR_FILE, or model=NAME with nothing to train")
    require_known(cfg.metrics, METRICS, "metrics", "metric")
    if cfg.processes is not None and (not isinstance(cfg.processes, int) or cfg.processes < 1):
        raise UserError(f"processes={cfg.processes}: must be a whole number from 1, or null")


def noise_name(choice: str, noise: Mapping[str, Any]) -> str:
    """A noise as rows name it: its choice, and the values in which it is not that choice's own."""
    base: Any = plain(hydra.compose("train", [f"noise={choice}"]).noise)
    return " ".join([choice, *(f"{key}={value}" for key, value in noise.items() if base.get(key) != value)])


def covers(trained: Mapping[str, Any], asked: Mapping[str, Any]) -> bool:
    """Whether the noise that a network was trained with, or one of a mixture's, contains the one that is asked for."""
    if trained["_target_"] != asked["_target_"]:
        return any(covers(part, asked) for part in trained.get("choices", {}).values() if part)
    keys = asked.keys() & trained.keys() - {"_target_", "spacing"}  # how a range is drawn from does not change its ends
    return all(within(trained[key], asked[key]) for key in keys)


def within(trained: Any, asked: Any) -> bool:
    """Whether a number or a range [a, b] lies in another; of all else, whether they are the same."""
    ranges = [value if isinstance(value, list) else [value] for value in (trained, asked)]
    if all(isinstance(end, int | float) for value in ranges for end in value):
        return min(ranges[0]) <= min(ranges[1]) and max(ranges[1]) <= max(ranges[0])
    return bool(trained == asked)


def load(cfg: DictConfig, noise: str) -> tuple[Any, dict[str, Any]]:
    """The network that is scored, and the facts of its row labels: ``model``, ``trained``, ``seed``, ``warning`` …

    ``noise`` is what rows call the noise that is asked for.
    """
    from hydra.utils import instantiate

    from denoisers.checkpoint import find
    from denoisers.layers import channels_last
    from denoisers.weights import open_network

    facts: dict[str, Any] = {"model": cfg.axes.model, "checkpoint": None, "trained": None, "warning": None}
    if cfg.checkpoint is None:
        network = instantiate(cfg.model)
        if any(True for _ in network.parameters()):
            raise UserError(f"model={cfg.axes.model} has weights to learn: give checkpoint=RUN_OR_FILE")
        return network.eval(), facts
    path = find(cfg.checkpoint)
    opened = open_network(path)
    typed = [override.split("=")[0] for override in HydraConfig.get().overrides.task]
    if "channels" not in typed:
        cfg.channels = opened.channels
    elif cfg.channels != opened.channels:
        raise UserError(f"channels={cfg.channels}: the network of {near(path)} takes {opened.channels}")
    facts |= {"model": opened.name, "checkpoint": str(near(path))}
    if opened.record is None:
        log.info(opened.said)
        return channels_last(opened.network), facts
    config = opened.record["config"]
    trained = noise_name(config["axes"]["noise"], config["noise"])
    facts |= {"model": config["axes"]["model"], "seed": config["seed"], "trained": trained}
    asked: Any = plain(cfg.noise)
    if asked["_target_"] != "datamodules.noise.none.NoNoise" and not covers(config["noise"], asked):
        facts["warning"] = (
            f"{facts['model']} was trained on {trained} and is asked for {noise}: "
            f"these are not its best numbers; every row says trained={trained}"
        )
    data, same = config.get("data", {}), ("path", "clean", "noisy")
    if cfg.data.get("fractions") == [0, 0, 1] and any(data.get(k) and data.get(k) == cfg.data.get(k) for k in same):
        log.warning(
            "WARNING: the network was trained on images of this folder: add data.fractions="
            f"{str(list(data['fractions'])).replace(' ', '')} to score those that were held out"
        )
    return channels_last(opened.network), facts


def find_lpips(cfg: DictConfig) -> Any:
    """LPIPS, or None where it is not asked for or its weights are missing, which is said."""
    from hydra.utils import instantiate

    from denoisers.perceptual import LPIPS

    if "lpips" not in cfg.metrics:
        return None
    if missing := LPIPS.missing(net=cfg.lpips.net, directory=cfg.lpips.directory):
        log.info(f"LPIPS is unavailable: there is no {' and no '.join(map(str, missing))}")
        return None
    return instantiate(cfg.lpips).eval()


def task(cfg: DictConfig, network: Any, noise_name: str, trained: str | None, pictures: Path | None) -> tuple[Any, Any]:
    """What is done to each image, and the images."""
    from hydra.utils import instantiate

    from datamodules.checks import check_headers, refuse_doubled_noise, refuse_uneven_videos
    from experiments.scoring import Scoring

    splits, noise = instantiate(cfg.data.splits), instantiate(cfg.noise)
    headers = check_headers(splits, cfg.channels, resize=cfg.data.resize, alpha=cfg.data.alpha)
    refuse_uneven_videos(splits.test, headers)
    refuse_doubled_noise(splits.test, noise)
    scoring = Scoring(
        network=network,
        channels=cfg.channels,
        noise=noise,
        noise_name=noise_name,
        realisation=instantiate(cfg.protocol.realisation),
        score=instantiate(cfg.protocol.score),
        protocol=cfg.protocol.name,
        lpips=find_lpips(cfg),
        metrics=list(cfg.metrics),
        eval_seed=cfg.eval_seed,
        headers=headers,
        pictures=pictures,
        trained=trained,
    )
    return scoring, splits.test


@command("evaluate")
def main(cfg: DictConfig) -> None:
    require_question(cfg)  # before what takes seconds to import

    import torch
    from rich.console import Console
    from rich.progress import track

    from datamodules.files import write_text
    from datamodules.parting import together
    from experiments import provenance, results, scoring

    started = time.monotonic()
    run_dir = near(HydraConfig.get().runtime.output_dir)
    cfg.run_dir = str(run_dir)
    if (run_dir / "summary.json").exists():
        raise UserError(f"run_dir={run_dir} already holds results, which stay as they are: choose another run_dir")
    noise = noise_name(cfg.axes.noise, plain(cfg.noise))
    network, facts = load(cfg, noise)
    parameters = sum(p.numel() for p in network.parameters())
    pictures = run_dir / "pictures" / "test" if cfg.pictures else None
    each, images = task(cfg, network, noise, facts["trained"], pictures)
    if facts["warning"]:
        log.warning(f"WARNING: {facts['warning']}")
    available = torch.cuda.device_count() or (1 if parameters else torch.get_num_threads())
    processes = min(cfg.processes or available, len(together(images)))

    write_text(run_dir / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    write_text(run_dir / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create([*HydraConfig.get().overrides.task])))
    count = len(images) * each.realisation.draws
    title = facts["model"] + (f" (trained on {facts['trained']})" if facts["trained"] else "")
    scored = track(scoring.rows(each, images, processes), title, count, console=Console(), transient=True)
    rows = results.completed(list(scored))
    results.write_rows(run_dir / "per_image.csv", rows)
    summary = {"kind": "evaluation", "name": f"{facts['model']}-{cfg.axes.data}-{noise}", **facts}
    summary |= {"axes": OmegaConf.to_container(cfg.axes, resolve=True), "data": cfg.axes.data, "noise": noise}
    summary |= {"protocol": cfg.protocol.name, "channels": cfg.channels, "eval_seed": cfg.eval_seed}
    summary |= {"parameters": parameters, "results": results.means(rows)}
    summary |= {"processes": processes, "hardware": provenance.hardware(), "versions": provenance.versions()}
    summary |= {"commit": provenance.commit(), "wall_seconds": round(time.monotonic() - started, 1)}
    results.write_summary(run_dir / "summary.json", summary)
    results.show(rows, title)
    log.info(f"pictures    {pictures}" if pictures else "no pictures")
    log.info(f"rows        {run_dir / 'per_image.csv'}")


if __name__ == "__main__":
    main()
