"""train.py's run under Lightning's own checkpoints, resuming and CSV logger: what torture.py compares with."""

import sys
from pathlib import Path

import hydra
import lightning as L
from hydra.core.hydra_config import HydraConfig
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from omegaconf import OmegaConf, open_dict

import train
from experiments.checkpoints import LastCheckpoint

CONF = Path(__file__).resolve().parent.parent / "conf"


def main() -> None:
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = hydra.compose("train", sys.argv[1:], return_hydra_config=True)
    with open_dict(cfg):
        cfg.hydra.runtime.output_dir = cfg.run_dir
    HydraConfig.instance().set_config(cfg)
    OmegaConf.set_struct(cfg, False)
    cfg.pop("hydra")
    every = cfg.callbacks.last.every_n_steps
    cfg.trainer.plugins = None
    train.free_the_other_budget(cfg, sys.argv[1:])
    L.seed_everything(cfg.seed, workers=True, verbose=False)
    datamodule, module, trainer = train.build(cfg)
    stock = ModelCheckpoint(
        dirpath=f"{cfg.run_dir}/checkpoints",
        filename="newest",
        every_n_train_steps=every,
        save_last=True,
        enable_version_counter=False,
    )
    ours = [callback for callback in trainer.callbacks if isinstance(callback, LastCheckpoint)]
    trainer.callbacks = [*(callback for callback in trainer.callbacks if callback not in ours), stock]
    trainer.loggers = [CSVLogger(cfg.run_dir, name="", version="", flush_logs_every_n_steps=1)]
    trainer.fit(module, datamodule, ckpt_path="last", weights_only=True)
    trainer.save_checkpoint(f"{cfg.run_dir}/checkpoints/last.ckpt")


if __name__ == "__main__":
    main()
