"""The main job: ``python train.py model=xdncnn noise=sigma25`` trains a denoiser and scores it on its test images."""

import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from experiments import ranks, resume
from experiments.cli import UserError, command, near
from experiments.signals import Interrupted

log = logging.getLogger(__name__)


def hush() -> None:
    """Silences remarks of Lightning's that are not for the user."""
    remarks = (
        "not have many workers",
        "LeafSpec",
        "exists and is not empty",
        "is not resumable",
        "`srun` command",
        "in eval mode",
    )
    for harmless in remarks:
        warnings.filterwarnings("ignore", f".*{harmless}.*")
    for talkative in ("pytorch", "fabric.utilities.distributed"):
        logging.getLogger(f"lightning.{talkative}").setLevel(logging.WARNING)


def free_the_other_budget(cfg: DictConfig, typed: list[str]) -> None:
    """A run ends by steps or by epochs: the one that was typed counts, and frees the other."""
    named = [key for key in resume.BUDGETS if any(override.split("=")[0] == key for override in typed)]
    if len(named) == 1:
        OmegaConf.update(cfg, next(key for key in resume.BUDGETS if key not in named), -1)
    for key in resume.BUDGETS:
        value = OmegaConf.select(cfg, key)
        if not isinstance(value, int) or isinstance(value, bool) or (value < 1 and value != -1):
            raise UserError(f"{key}={value}: must be a whole number from 1, or -1 for no limit")
    if cfg.trainer.max_steps == cfg.trainer.max_epochs == -1:
        raise UserError("a run needs an end, and its schedule a length: give trainer.max_steps or trainer.max_epochs")


def claim(run_dir: Path, cfg: DictConfig, typed: list[str], resumed: bool) -> None:
    """Writes the resolved configuration into the run's folder, which must not hold another run."""
    from datamodules.files import write_text

    if (run_dir / "config.yaml").exists() and not resumed:
        raise UserError(
            f"run_dir={run_dir} already holds a run, which stays as it is: choose another run_dir, "
            f"or go on with that run: resume={run_dir}"
        )
    try:
        for left_over in run_dir.glob(".*.part*"):
            left_over.unlink()
        write_text(run_dir / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(typed)))
        write_text(run_dir / "config.yaml", OmegaConf.to_yaml(cfg, resolve=True))  # last: it says that a run is here
    except OSError as error:
        raise UserError(f"run_dir={run_dir} cannot be written: {error}") from error


def parts(group: DictConfig | None) -> dict[str, Any]:
    """What a group of the configuration names, by its name; what is null is left out."""
    from hydra.utils import instantiate

    return {name: part for name, part in (instantiate(group) or {}).items() if part is not None}


def build(cfg: DictConfig) -> tuple[Any, Any, Any]:
    """The data module, the module and the trainer that a configuration describes."""
    from hydra.utils import instantiate
    from lightning.pytorch.callbacks import ProgressBar

    from denoisers.finetuning import freeze
    from denoisers.module import DenoisingModule
    from denoisers.ranged import ranged
    from experiments import assumptions, hardware, provenance

    cfg.trainer.precision = hardware.precision(cfg.trainer.precision, cfg.trainer.accelerator)
    objective, loss = instantiate(cfg.objective), instantiate(cfg.loss)
    needs = {name: getattr(objective, name) for name in ("views", "fixed", "clean")}
    datamodule = instantiate(cfg.datamodule, **needs)
    if not datamodule.judged:
        cfg.watch = {"metric": "val/loss", "mode": "min"}
    config: Any = OmegaConf.to_container(cfg, resolve=True)
    try:
        network = ranged(instantiate(cfg.model), config["value_range"])
        if any(p.requires_grad for p in network.parameters()):
            assumptions.require(objective, datamodule, loss, config["axes"])
        freeze(network, config["freeze"] or [])
        module = DenoisingModule(
            network=network,
            objective=objective,
            loss=loss,
            optimizer=instantiate(cfg.optimizer),
            scheduler=instantiate(cfg.scheduler),
            score=instantiate(cfg.protocol.score),
            baselines=parts(cfg.baselines),
            record={
                "config": config,
                "images": datamodule.splits.fingerprint(),
                "versions": provenance.versions(),
                "commit": provenance.commit(),
            },
        )
    except ValueError as error:
        raise UserError(str(error)) from error
    if cfg.compile:
        module.network.compile()
    callbacks, loggers = (list(parts(group).values()) for group in (cfg.callbacks, cfg.logger))
    if not cfg.trainer.enable_progress_bar:
        callbacks = [callback for callback in callbacks if not isinstance(callback, ProgressBar)]
    trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=loggers)
    return datamodule, module, trainer


def trained_weights(cfg: DictConfig) -> tuple[dict[str, Any], str]:
    """The weights that a run starts from, and what they are of; their file's SHA-256 goes into the configuration.

    Raises:
        CheckpointError: the file cannot be opened.
        UserError: it is another one than is asked for.
    """
    from denoisers import checkpoint, weights

    path = checkpoint.find(cfg.init_from)
    found = checkpoint.checksum(path)
    if cfg.init_sha256 not in (None, found):
        raise UserError(f"init_from={path}: its SHA-256 is {found}, not {cfg.init_sha256}; that file was another one")
    cfg.init_sha256 = found
    return weights.open_network(path).network.state_dict(), f"{near(path)} (SHA-256 {found[:12]}…)"


def refuse_early(datamodule: Any, module: Any, checkpoint: Path | None, changes: list[str], force: bool) -> None:
    """Whatever building alone has not refused is refused here, before the first step and before anything is written."""
    from denoisers.checkpoint import read

    if module.trainable:
        try:
            module.rehearse()
        except ValueError as error:
            raise UserError(f"optimizer and scheduler: {error}") from error
    saved = read(checkpoint) if checkpoint else None
    if saved:
        then, now = saved["record"]["images"], module.record["images"]
        changes = changes + [
            f"  {split} images: {then[split]} → {now[split]}" for split in then if then[split] != now[split]
        ]
    if changes:
        text = "what decides the run's results is changed:\n" + "\n".join(changes)
        if not force:
            raise UserError(f"{text}\ngo on all the same with resume_force=true, or start a new run without resume")
        log.warning(text)
    if saved:
        module.on_load_checkpoint(saved)
    datamodule.setup("fit" if module.trainable else "test")  # decodes every file


def learn(trainer: Any, module: Any, datamodule: Any, stands: Path | None) -> str | None:
    """Trains, from a checkpoint if there is one, and takes the best weights; their checkpoint, if there is one."""
    from denoisers.checkpoint import read

    trainer.fit(module, datamodule, ckpt_path=stands, weights_only=True)
    if best := trainer.checkpoint_callback and trainer.checkpoint_callback.best_model_path:
        module.load_state_dict(read(best)["state_dict"])
    return best


@command("train", resume.again)
def main(cfg: DictConfig) -> None:
    ranks.follow()
    # late, so that help and mistakes on the command line take no seconds
    import lightning as L

    from denoisers.finetuning import start_from
    from denoisers.module import NonFinite
    from experiments import budget, find, results
    from experiments.wandb_logger import Wandb

    started = time.monotonic()
    hush()
    typed = list(HydraConfig.get().overrides.task)
    run_dir = near(HydraConfig.get().runtime.output_dir)
    cfg.run_dir = str(run_dir)
    changes: list[str] = []
    resume.in_slices(cfg, run_dir)
    stands, resumed, force, slice_ = None, bool(cfg.resume), cfg.resume_force, cfg.slice
    if resumed:
        cfg, changes = resume.configuration(cfg, run_dir)
        stands = resume.newest(run_dir)
    free_the_other_budget(cfg, typed)
    if cfg.find is not None:
        find.refuse(cfg, run_dir)
    measured = not resumed and budget.applies(cfg, typed)

    L.seed_everything(cfg.seed, workers=True, verbose=False)
    # a run that goes on has weights of its own
    start = trained_weights(cfg) if cfg.init_from and not stands else None
    datamodule, module, trainer = build(cfg)
    if start:
        taken = start_from(module.network, start[0], strict=cfg.init_strict, source=start[1])
    refuse_early(datamodule, module, stands, changes, force)
    if cfg.find is not None:
        find.find(cfg, module, datamodule, run_dir)
        return
    if measured and module.trainable:
        plan = budget.plan(cfg, module, datamodule, started)
        cfg.trainer.max_steps, cfg.trainer.max_epochs = plan.steps, -1
        if trainer.is_global_zero:
            budget.show(cfg, plan, [stage.begin for stage in datamodule.stages], time.monotonic() - started)
        L.seed_everything(cfg.seed, workers=True, verbose=False)
        datamodule, module, trainer = build(cfg)  # again, from the beginning
        if start:
            start_from(module.network, start[0], strict=cfg.init_strict, source=start[1])
    if trainer.is_global_zero:
        claim(run_dir, cfg, typed, resumed)
        if start:
            log.info(taken)
    for logger in trainer.loggers:
        logger.log_hyperparams(module.record["config"])

    try:
        best = learn(trainer, module, datamodule, stands) if module.trainable else None
        trained = time.monotonic()
        trainer.test(module, datamodule, verbose=False)
    except Interrupted as end:
        if trainer.is_global_zero:
            again = f"python train.py resume={run_dir}" + (f" slice={slice_}" if slice_ else "")
            log.info(f"stopped by {end} at step {trainer.global_step}; go on with: {again}")
        raise
    except NonFinite as error:
        last = run_dir / "checkpoints" / "last.ckpt"
        good = f"the last good checkpoint is {last}" if last.exists() else "no checkpoint has been written yet"
        raise UserError(f"{error}\n  {good}") from error
    except Exception:
        ranks.say_who_died(trainer)
        raise

    if trainer.is_global_zero:
        rows = next(callback.rows for callback in trainer.callbacks if isinstance(callback, results.Rows))
        before = sum(getattr(callback, "seconds_before", 0) for callback in trainer.callbacks)
        seconds = {"train_seconds": trained - started, "wall_seconds": time.monotonic() - started}
        summary = results.summary(rows, module, trainer) | {k: round(before + v, 1) for k, v in seconds.items()}
        results.write_summary(run_dir / "summary.json", summary)
        results.show(rows, cfg.axes.model)
        log.info(f"pictures    {run_dir / 'pictures' / 'test'}\nrows        {run_dir / 'per_image.csv'}")
        if best:
            log.info(f"checkpoint  {near(best)}\n\nNow clean a picture of your own:")
            verb = f"{near(sys.executable)} -m experiments.denoise"
            log.info(f"  {verb} checkpoint={run_dir} input=photo.png output=clean.png")
    for logger in trainer.loggers:
        if isinstance(logger, Wandb):
            logger.finish()


if __name__ == "__main__":
    main()
