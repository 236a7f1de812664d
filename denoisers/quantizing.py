"""Static post-training quantisation to int8, of exported files: what flows through a network in 8 bits.

Ranges are found by running the network on a few noisy pictures. Weights have a scale for each output channel.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from denoisers.checkpoint import METADATA
from denoisers.exported import needed
from denoisers.exporting import ExportError

Samples = Sequence[Mapping[str, np.ndarray]]  # of each, ``noisy`` [B, C, H, W] and perhaps ``level`` [B, 1, 1, 1]
HEAVY = ["Conv", "ConvTranspose", "MatMul", "Gemm", "Relu"]  # all else stays in float32, cheap or delicate


def int8_onnx(source: Path, target: Path, samples: Samples) -> None:
    """An ONNX file in float32 → one in which convolutions and matrix products work in int8, by ONNX Runtime.

    As QDQ nodes: activations uint8, weights int8 for each channel; the ranges are the samples' smallest and largest
    values, averaged over the samples. The last difference, that of input and residual, stays in float32. Metadata is
    kept.

    Raises:
        ExportError: ONNX Runtime cannot quantise it.
        CheckpointError: a package is missing; the message names the extra.
    """
    onnx = needed("onnx", "an int8 ONNX file is to be made")
    quantization = needed("onnxruntime.quantization", "an int8 ONNX file is to be made")
    shapes = needed("onnxruntime.quantization.shape_inference", "an int8 ONNX file is to be made")

    class Reader(quantization.CalibrationDataReader):  # type: ignore[name-defined]
        left = iter(samples)

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next((dict(each) for each in self.left), None)

    prepared = target.with_name(f"prepared-{target.name}")
    with said_as_ours(source, "ONNX Runtime"):
        try:
            shapes.quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
            quantization.quantize_static(
                str(prepared),
                str(target),
                Reader(),
                quant_format=quantization.QuantFormat.QDQ,
                op_types_to_quantize=HEAVY,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                calibrate_method=quantization.CalibrationMethod.MinMax,
                extra_options={"CalibMovingAverage": True},
            )
        finally:
            prepared.unlink(missing_ok=True)
        model = onnx.load(str(target))
        said = {entry.key: entry.value for entry in onnx.load(str(source)).metadata_props}
        onnx.helper.set_model_props(model, said)
        onnx.save(model, str(target))


def int8_openvino(source: Path, target: Path, samples: Samples) -> None:
    """An OpenVINO file in float32 → one whose convolutions and matrix products work in int8, by NNCF.

    As NNCF does it by itself: symmetric ranges for weights, of each channel, and after ReLU, else asymmetric ones;
    biases corrected by what quantisation shifts. Metadata is kept.

    Raises:
        ExportError: NNCF cannot quantise it.
        CheckpointError: a package is missing; the message names the extra.
    """
    openvino = needed("openvino", "an int8 OpenVINO file is to be made")
    kind = logging.getLoggerClass()
    try:
        nncf = needed("nncf", "an int8 OpenVINO file is to be made")
    finally:
        logging.setLoggerClass(kind)  # NNCF wants all loggers to be its own
    nncf.set_log_level(logging.ERROR)
    with said_as_ours(source, "NNCF"):
        model = openvino.Core().read_model(str(source))
        found = nncf.quantize(
            model,
            nncf.Dataset([dict(each) for each in samples]),
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(samples),
        )
        found.set_rt_info(model.get_rt_info([METADATA]).astype(str), [METADATA])
        openvino.save_model(found, str(target), compress_to_fp16=False)


@contextmanager
def said_as_ours(source: Path, tool: str) -> Iterator[None]:
    """What a tool raises of a network, in one line."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise ExportError(f"{source} cannot be quantised: {tool} says {reason[0]}") from error
