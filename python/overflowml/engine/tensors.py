"""Tensors as byte ranges: how any parameter is laid into a slab of bytes and found again there.

Tensors that share memory are laid out together, with their strides, so that a view of a slab is indistinguishable from
the original. Wrapper subclasses (quantised tensors) are taken apart into the plain tensors inside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Sequence

import torch
from torch import nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

ALIGNMENT = 512
"""Where tensors start in a slab: no kernel wants more, and it is what allocators give."""

_PLAIN = (torch.Tensor, nn.Parameter, nn.Buffer)


class Unsupported(TypeError):
    """A tensor that is not bytes we can move: the message says which and why."""


@dataclass(frozen=True)
class Span:
    """A tensor inside a slab: bytes from the slab's start, and how to read them."""

    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def view(self, slab: torch.Tensor) -> torch.Tensor:
        """The tensor itself, in the memory of `slab` (uint8, one dimension)."""
        size = self.dtype.itemsize
        whole = slab[self.offset :][: slab.numel() - self.offset]
        usable = whole.numel() // size * size
        return whole[:usable].view(self.dtype).as_strided(self.shape, self.stride)


@dataclass(frozen=True)
class Parts:
    """How to make one parameter or buffer from plain tensors."""

    plain: tuple[torch.Tensor, ...]
    rebuild: Callable[[Sequence[torch.Tensor]], torch.Tensor]

    def forget(self) -> Parts:
        """The way to rebuild, without holding on to the bytes."""
        return Parts((), self.rebuild)


def take_apart(tensor: torch.Tensor, name: str) -> Parts:
    """The plain tensors that hold the bytes of `tensor`.

    Raises:
        Unsupported: sparse, or a subclass whose bytes cannot be found.
    """
    if type(tensor) in _PLAIN and type(tensor.data) is torch.Tensor:
        if tensor.layout != torch.strided or tensor.is_conj() or tensor.is_neg() or tensor.is_quantized:
            raise Unsupported(f"`{name}` is {tensor.layout}, quantized or lazily conjugated: only plain strided tensors move")
        return Parts((tensor.data,), lambda plain: plain[0])
    if is_traceable_wrapper_subclass(tensor.data):
        return _take_wrapper_apart(tensor.data, name)
    if hasattr(tensor, "quant_type") and type(tensor).__name__ == "GGUFParameter":
        kind, quant_type = type(tensor), tensor.quant_type
        plain = tensor.data.as_subclass(torch.Tensor)
        return Parts((plain,), lambda p: kind(p[0], requires_grad=False, quant_type=quant_type))
    raise Unsupported(f"`{name}` is a {type(tensor).__name__}, whose bytes are not known to be all of it")


def _take_wrapper_apart(tensor: torch.Tensor, name: str) -> Parts:
    inner_names, context = tensor.__tensor_flatten__()  # type: ignore[attr-defined]
    inner = [take_apart(getattr(tensor, inner_name), f"{name}.{inner_name}") for inner_name in inner_names]
    kind, shape, stride = type(tensor), tensor.shape, tensor.stride()

    def rebuild(plain: Sequence[torch.Tensor]) -> torch.Tensor:
        remaining = iter(plain)
        values = {}
        for inner_name, parts in zip(inner_names, inner):
            values[inner_name] = parts.rebuild([next(remaining) for _ in parts.plain])
        return kind.__tensor_unflatten__(values, context, shape, stride)  # type: ignore[attr-defined, no-any-return]

    return Parts(tuple(t for parts in inner for t in parts.plain), rebuild)


def byte_range(tensor: torch.Tensor) -> tuple[int, int, int]:
    """(storage, first byte, end) that `tensor` reads; the storage is named by its address, or its identity on meta."""
    if tensor.numel() == 0:
        return (0, 0, 0)
    storage = tensor.untyped_storage()
    first = tensor.storage_offset() * tensor.itemsize
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride()))
    return (storage._cdata, first, first + (reach + 1) * tensor.itemsize)


def raw_bytes(tensor: torch.Tensor, first: int, end: int) -> torch.Tensor:
    """Bytes `first..end` of the storage of `tensor`, as uint8."""
    whole = torch.empty(0, dtype=torch.uint8, device=tensor.device)
    return whole.set_(tensor.untyped_storage(), first, (end - first,))  # type: ignore[call-overload, no-any-return]


def as_member(like: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """`value` as what a module holds in the place of `like`: parameters stay parameters."""
    if isinstance(like, nn.Parameter) and not isinstance(value, nn.Parameter):
        return nn.Parameter(value, requires_grad=False)
    return value


def member_names(module: nn.Module) -> list[tuple[str, nn.Module, str, dict[str, Any]]]:
    """(full name, module, name, the dict it lives in) of every parameter and buffer below `module`, repeats included."""
    found = []
    for path, part in module.named_modules():
        for store in (part._parameters, part._buffers):
            for name, tensor in store.items():
                if tensor is not None:
                    found.append((f"{path}.{name}" if path else name, part, name, store))
    return found


def align(nbytes: int, to: int = ALIGNMENT) -> int:
    """The next multiple of `to`."""
    return -(-nbytes // to) * to
