"""Weights in 8 or 4 bits: plain integers and scales, turned back into the model's own dtype whenever a block is used.

Never used unless a smaller precision was allowed and chosen. Only matrices are rounded; norms, biases and embeddings are not.
"""

from __future__ import annotations

from typing import Any, Sequence

import torch
from torch import nn

from .tensors import Parts

SMALLEST = 1024
"""Elements: rounding less than this saves nothing."""
GROUP = 32
"""Neighbours that share a scale in 4 bits."""
_FLOATS = (torch.bfloat16, torch.float16, torch.float32)


def eligible(module: nn.Module, tensor: torch.Tensor) -> bool:
    """Whether a tensor may be rounded."""
    return (
        not isinstance(module, nn.Embedding) and type(tensor.data) is torch.Tensor and tensor.dtype in _FLOATS
        and tensor.dim() >= 2 and tensor.numel() >= SMALLEST
    )


def encode(tensor: torch.Tensor, precision: str) -> Parts:
    """`tensor` in `precision` (`fp8`, `int8` or `int4`), and how to get it back, rounded."""
    shape, dtype = tensor.shape, tensor.dtype
    rows = tensor.detach().to(torch.float32).reshape(shape[0], -1)
    if precision == "int4" and rows.shape[1] % GROUP == 0:
        return _int4(rows, shape, dtype)
    if precision == "fp8":
        scale = _scale(rows, 448.0)
        return Parts(((rows / scale).to(torch.float8_e4m3fn), scale), _rescaler(shape, dtype))
    scale = _scale(rows, 127.0)
    integers = (rows / scale).round_().clamp_(-127, 127).to(torch.int8)
    return Parts((integers, scale), _rescaler(shape, dtype))


def _scale(rows: torch.Tensor, largest: float) -> torch.Tensor:
    """What one step is worth, by row; a row of zeros has any scale."""
    return (rows.abs().amax(dim=1, keepdim=True) / largest).clamp_min_(1e-30)


def _rescaler(shape: torch.Size, dtype: torch.dtype) -> Any:
    def decode(plain: Sequence[torch.Tensor]) -> torch.Tensor:
        steps, scale = plain
        if dtype is torch.float16:
            # Scales may be smaller than this type can hold.
            return (steps.to(torch.float32) * scale).to(dtype).reshape(shape)
        return steps.to(dtype).mul_(scale.to(dtype)).reshape(shape)

    return decode


def _int4(rows: torch.Tensor, shape: torch.Size, dtype: torch.dtype) -> Parts:
    groups = rows.reshape(-1, GROUP)
    scale = _scale(groups, 7.0)
    steps = (groups / scale).round_().clamp_(-7, 7).add_(8).to(torch.uint8)
    packed = steps[:, : GROUP // 2] | (steps[:, GROUP // 2 :] << 4)

    def decode(plain: Sequence[torch.Tensor]) -> torch.Tensor:
        packed, scale = plain
        steps = torch.cat((packed & 15, packed >> 4), dim=1).to(torch.float32).sub_(8)
        return steps.mul_(scale).to(dtype).reshape(shape)

    return Parts((packed, scale), decode)
