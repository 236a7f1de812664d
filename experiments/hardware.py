"""What this machine can do: the meaning of ``trainer.precision=auto``."""

import torch


def precision(asked: str | int, accelerator: str) -> str | int:
    """``auto`` → Lightning's name of the fastest precision that trains well here; anything else stays as asked.

    bf16 autocast on GPUs from compute capability 8.0 and on processors with bf16 instructions, fp16 autocast on older
    GPUs with tensor cores (7.0 and up), float32 otherwise.

    Args:
        asked: a Lightning precision, or ``auto``.
        accelerator: a Lightning accelerator: ``auto``, ``cpu``, ``gpu``, …
    """
    if asked != "auto":
        return asked
    if torch.cuda.is_available() and accelerator in ("auto", "gpu", "cuda"):
        capability = torch.cuda.get_device_capability()
        return "bf16-mixed" if capability >= (8, 0) else "16-mixed" if capability >= (7, 0) else "32-true"
    if accelerator in ("auto", "cpu") and not torch.backends.mps.is_available():
        features = torch.cpu.get_capabilities()
        return "bf16-mixed" if features.get("avx512_bf16") or features.get("amx_bf16") else "32-true"
    return "32-true"
