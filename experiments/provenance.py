"""Where a result comes from: code, versions and hardware."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = (
    *("torch", "lightning", "hydra-core", "kornia", "torchmetrics", "numpy", "pillow", "scikit-image", "wandb"),
    *("scipy", "PyWavelets", "bm3d", "onnx", "onnxruntime", "openvino"),
)


def commit() -> str:
    """The git commit of the code, with ``+changes`` where the tree differs from it; ``unknown`` outside git."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions() -> dict[str, str]:
    """Python and the packages that decide a result."""

    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "absent"

    return {"python": platform.python_version()} | {package: installed(package) for package in PACKAGES}


def hardware() -> str:
    """Processor, threads and GPUs in one line."""
    parts = [f"{_processor()}, {torch.get_num_threads()} threads of {os.cpu_count()} cores"]
    parts += [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return "; ".join(parts)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
