"""The LightningModule that trains, validates and tests any network. It knows no file, no Hydra and no logger."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import lightning as L
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from denoisers.checkpoint import architecture_difference
from denoisers.clips import estimated, frames
from denoisers.finetuning import hold_statistics
from denoisers.layers import channels_last
from denoisers.metrics import Score, psnr
from denoisers.objectives.base import Objective
from denoisers.optimizers import Joint
from denoisers.schedulers import Schedule
from denoisers.tiles import tiled

Batch = dict[str, Any]
NAMED = 10  # files in one message
SURROGATE = 256  # side of what is looked at of a picture that has no clean one


def middle(batch: Batch) -> Batch:
    """A batch of images with no more than the middle of each."""
    top, left = (max(0, size - SURROGATE) // 2 for size in batch["noisy"].shape[-2:])
    views = [view for view in ("noisy", "twin") if view in batch]
    return batch | {view: batch[view][..., top : top + SURROGATE, left : left + SURROGATE] for view in views}


class NonFinite(ArithmeticError):
    """Training has met a number that is infinite or none. The message names it, the step and the files."""


class DenoisingModule(L.LightningModule):
    """A network, how it learns and how it is scored.

    A batch is a dictionary: ``noisy`` and ``clean`` [B, C, H, W] in [0, 1], ``level`` [B, 1, 1, 1] (noise standard
    deviation on the same scale) or a map [B, 1, H, W], ``name`` and ``set`` (lists of B strings); what else it has, or
    has not, is the objective's business (:class:`denoisers.objectives.base.Objective`). Or of clips
    [B, T, C, H, W], with ``level`` [B, T, 1, 1, 1]; a network that sees time meets them whole, any other their frames
    one by one; each frame is scored.

    Args:
        network: ``network(noisy, level) -> estimate``; one without parameters is only tested.
        objective: how it learns.
        loss: (estimate, target) → scalar.
        optimizer: parameters → optimiser.
        scheduler: the learning-rate schedule.
        score: the scoring half of the protocol.
        baselines: name → network, scored beside the network in ``test_step``.
        record: plain data that the checkpoint carries: the resolved configuration, versions, …
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        objective: Objective,
        loss: nn.Module,
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        scheduler: Schedule,
        score: Score,
        baselines: Mapping[str, nn.Module] | None = None,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.network = channels_last(network)
        self.objective, self.loss = objective, loss
        self.objective.attach(self.network)
        self.build_optimizer = optimizer
        self.schedule = scheduler
        self.score = score
        self.baselines = nn.ModuleDict(baselines)
        self.record = dict(record or {})
        self._steps = 1  # of the run
        self._names: list[str] = []  # of the files since the last optimiser step

    @property
    def trainable(self) -> bool:
        """Whether there is anything to train."""
        return any(p.requires_grad for p in self.network.parameters())

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        hold_statistics(self.network)
        return self

    def forward(self, noisy: Tensor, level: Tensor | None = None) -> Tensor:
        """[B, C, H, W] or [B, T, C, H, W] → the clean estimate, same shape, unclamped."""
        return estimated(self.network, noisy, level)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        learnt = self.objective(self, batch, self.loss, self.global_step / self._steps)
        self._names += batch["name"]
        self.require_finite("training loss", learnt.loss)
        shown = {"train/loss": learnt.loss}
        if "clean" in batch:
            with torch.no_grad():
                shown["train/psnr"] = psnr(frames(learnt.estimate).clamp(0, 1), frames(batch["clean"])).mean()
        self.log_dict(shown, prog_bar=True, batch_size=len(batch["noisy"]))
        self.log_dict({f"train/{name}": value.detach() for name, value in learnt.terms.items()})
        return learnt.loss

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Returns the estimate. Without a clean image it is the objective's own loss that is logged, ``val/loss``."""
        estimate = self.estimate(self.network, batch)
        if "clean" in batch:
            found = self.score(frames(estimate), frames(batch["clean"]))
        else:
            with torch.autocast(self.device.type, enabled=False):
                found = {"loss": self.objective(self, middle(batch), self.loss, 1.0).loss[None]}
        for metric, values in found.items():
            if metric != "ssim" and values.isnan().any():
                shown = "PSNR" if metric == "psnr" else metric
                raise NonFinite(
                    f"step {self.global_step}: the validation {shown} is nan; image: {', '.join(batch['name'])}"
                )
            # Lightning's mean over batches, weighted by their size, is the mean over images; over ranks, too, if sizes
            # are no whole numbers, whose mean it would round
            size: Any = 0.0 if batch.get("repeated") else float(len(values))
            self.log(f"val/{metric}", values.mean(), prog_bar=True, batch_size=size, sync_dist=True)
        return estimate

    def test_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Returns ``estimate`` and ``scores``: column → [B], of clips [B · T]; a baseline's are ``NAME_psnr`` …

        Without a clean image there are no scores.
        """
        estimate = self.estimate(self.network, batch)
        if "clean" not in batch:
            return {"estimate": estimate, "scores": {}}
        scores = self.scored(estimate, batch["clean"])
        for name, baseline in self.baselines.items():
            columns = self.scored(self.estimate(baseline, batch), batch["clean"])
            scores |= {f"{name}_{metric}": values for metric, values in columns.items()}
        return {"estimate": estimate, "scores": scores}

    def scored(self, estimate: Tensor, clean: Tensor) -> dict[str, Tensor]:
        """Metric → [B], of clips [B · T], which have a ``flicker``, too."""
        scores = self.score(frames(estimate), frames(clean))
        if clean.ndim == 5:
            scores["flicker"] = torch.cat([self.score.flicker(*clips) for clips in zip(estimate, clean, strict=True)])
        return scores

    def estimate(self, network: nn.Module, batch: Batch) -> Tensor:
        """The network's estimate, of large pictures tile by tile.

        In float32 whatever the training precision: bf16 shifts a PSNR by 0.005 dB.
        """
        with torch.autocast(self.device.type, enabled=False):
            return tiled(network, batch["noisy"], batch["level"])

    def rehearse(self) -> None:
        """Builds optimiser and schedule once, so that values they refuse are refused before any training.

        Raises:
            ValueError: what they refuse, as PyTorch says it.
        """
        optimizer = self.build_optimizer([nn.Parameter(torch.zeros(1))])
        self.objective.optimizer()
        self.schedule.configure(optimizer, steps=100, epochs=10)

    def configure_optimizers(self) -> Any:
        optimizer = self.build_optimizer([p for p in self.network.parameters() if p.requires_grad])
        if (second := self.objective.optimizer()) is not None:
            optimizer = Joint([optimizer, second])
        self.trainer.fit_loop.setup_data()  # or the number of batches is not known yet
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise ValueError("a schedule needs a length: give trainer.max_steps or trainer.max_epochs")
        per_epoch = math.ceil(self.trainer.num_training_batches / self.trainer.accumulate_grad_batches)
        epochs = math.ceil(steps / per_epoch)
        self._steps = int(steps)
        return {"optimizer": optimizer, "lr_scheduler": self.schedule.configure(optimizer, int(steps), epochs)}

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Refuses a non-finite gradient before the optimiser sees it; clips by the same norm, once computed.

        The network's gradient and that of what its objective learns are two.
        """
        for learner in (self.network, self.objective):
            parameters = [p for p in learner.parameters() if p.grad is not None]
            norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
            if getattr(self.trainer.precision_plugin, "scaler", None) is None:  # a loss scaler skips such steps itself
                self.require_finite("gradient", norm)
            if gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
                clip_grads_with_norm_(parameters, gradient_clip_val, norm)
        self._names = []
        if gradient_clip_algorithm not in (None, "norm"):
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def require_finite(self, name: str, value: Tensor) -> None:
        """Raises NonFinite unless the value, a scalar, is a finite number."""
        if not value.isfinite():
            files = sorted(set(self._names))
            more = f" and {len(files) - NAMED} more" if len(files) > NAMED else ""
            raise NonFinite(
                f"step {self.global_step + 1}: the {name} is {value.item()}; files: {', '.join(files[:NAMED])}{more}"
            )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["record"] = self.record

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuses the weights of another architecture, naming both and the first keys that differ."""
        architecture_difference(checkpoint, self.record, self.state_dict())
