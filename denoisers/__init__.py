"""What learns: networks, and how they learn. ``denoisers.load(path)(image)`` uses a trained one."""

from denoisers.inference import Denoiser, load

__all__ = ["Denoiser", "load"]
