"""One Hessian's rows or probes split over the ranks of the default process group, and gathered again.

Every rank builds the same loss of the same batch and the same parameters, computes a part of the work, and ends with
the whole result. Failures are told around: before every exchange of numbers the ranks exchange a few bytes on how
they are, so that an error on one of them is an error on all, at their next exchange. A rank that dies without a word,
or that works longer than the process group's timeout between two exchanges, is the process group's to find: the others
then wait as long as that timeout says (`torchrun` ends them at once).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from types import TracebackType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gradgraph.curvature.first_order import FirstOrder
from gradgraph.curvature.sameness import checksum, closeness_of, difference_of
from gradgraph.errors import GradGraphError, InputError
from gradgraph.measure import norm

__all__ = ["Share"]


class Share:
    """What one rank has to do with the work of all. Enter it around the work, so that its errors reach the others.

    Where each number is computed by one rank and the others add a zero (`slice`, then `sum_`), the sum is that number,
    to the bit. A batch of rows may still be rounded in another way than a batch of another size; rows that are computed
    one a pass are equal to a single process's to the bit.

    Attributes:
        rank: number of this process, from 0.
        size: how many processes there are; 1 without sharding.
    """

    def __init__(self, rank: int, size: int, device: torch.device | None = None) -> None:
        self.rank = rank
        self.size = size
        self._device = device
        self._told = False

    @staticmethod
    def of(shard: bool, device: torch.device | None = None) -> Share:
        """This rank's share of the default process group's work; all of it where `shard` is False.

        Args:
            shard: whether to split the work.
            device: where this rank computes. Only NCCL asks, and only where `torch.cuda.set_device` was not called.

        Raises:
            InputError: there is no process group.
        """
        if not shard:
            return Share(0, 1)
        if not dist.is_available():
            raise InputError("shard=True needs torch.distributed, which this build of torch lacks: use shard=False.")
        if not dist.is_initialized():
            raise InputError(
                "shard=True expected an initialized process group, got none. Start the program with `torchrun "
                "--nproc_per_node=N script.py` and call torch.distributed.init_process_group() in it; or use "
                "shard=False."
            )
        return Share(dist.get_rank(), dist.get_world_size(), device)

    @property
    def is_single(self) -> bool:
        """Whether this process does everything itself."""
        return self.size == 1

    def slice(self, total: int) -> tuple[int, int]:
        """First and past-the-last number of this rank's part of `total` pieces; parts differ by one piece at most."""
        return total * self.rank // self.size, total * (self.rank + 1) // self.size

    def sum_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the ranks, in place. To be called by all ranks, with equal shapes.

        Half precision is summed in float32.

        Raises:
            GradGraphError: a rank failed, does something else, or is gone.
        """
        if self.is_single or not tensors:
            return
        self._exchange("sum", [(list(one.shape), str(one.dtype)) for one in tensors])
        for dtype in dict.fromkeys(_wide(one) for one in tensors):
            group = [one for one in tensors if _wide(one) is dtype]
            wire = self._wire(group[0])
            packed = torch.cat([one.detach().reshape(-1).to(wire, dtype) for one in group])
            with self._reported():
                dist.all_reduce(packed)
            self._unpack(packed, group)

    def first_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by rank 0's, in place: what must be one thing everywhere, roundings and signs too."""
        if self.is_single or not tensors:
            return
        self._exchange("first", [(list(one.shape), str(one.dtype)) for one in tensors])
        for tensor in tensors:
            packed = tensor.detach().reshape(-1).to(self._wire(tensor)).contiguous()
            with self._reported():
                dist.broadcast(packed, src=0)
            self._unpack(packed, [tensor])

    def first(self, number: float) -> float:
        """Rank 0's number, on all ranks: for decisions that all must take alike."""
        return number if self.is_single else float(self._exchange("decide", None, number)[0])

    def agree(self, decision: object) -> None:
        """Refuse ranks that decided otherwise than others, on how to share the work. To be called by all.

        Args:
            decision: anything that pickles and compares.

        Raises:
            GradGraphError: what two ranks decided.
        """
        if not self.is_single:
            self._exchange("agree", decision)

    def check(self, loss: Tensor, order: FirstOrder) -> None:
        """Refuse ranks whose losses, gradients or parameters are not the same. To be called by all, first of all.

        Parameters are compared by a checksum of their bits, loss and the gradients' norm to rounding, since not every
        kernel rounds alike on every device. Cost: one pass over the parameters' entries.

        Raises:
            InputError: which ranks differ, in what, and what to do.
        """
        if self.is_single:
            return
        norms = [norm(one) for one in order.gradients.values()]
        mine = {
            "names": list(order.tensors),
            "shapes": [(list(one.shape), str(one.dtype)) for one in order.tensors.values()],
            "parameters": {name: checksum(tensor) for name, tensor in order.tensors.items()},
            "loss": float(loss.detach()),
            "gradient": math.hypot(*norms),
            "reached": dict(order.reached),
        }
        everyone = self._exchange("check", None, mine)
        difference = difference_of(everyone, closeness_of(loss.dtype))
        if difference is not None:
            self._told = True  # every rank finds the same
            raise InputError(difference)

    def __enter__(self) -> Share:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # An interrupt comes to all ranks at once, and each should leave at once.
        if self.is_single or self._told or (error is not None and not isinstance(error, Exception)):
            return
        if error is None:
            self._exchange("end", None)
            return
        self._told = True
        # Telling raises what all ranks are told; this rank's own error is the one to raise here.
        with suppress(GradGraphError):
            self._exchange("end", None, failure=f"{type(error).__name__}: {error}")

    def _exchange(self, step: str, agreed: Any, given: Any = None, failure: str | None = None) -> list[Any]:
        """What every rank gives, in their order, once all are well and agree on what they are about to do."""
        everyone: list[Any] = [None] * self.size
        place: AbstractContextManager[Any] = nullcontext()
        if self._device is not None and self._device.type == "cuda":
            place = torch.cuda.device(self._device)
        with self._reported(), place:
            dist.all_gather_object(everyone, (failure, step, agreed, given))
        failures = [f"rank {rank}: {entry[0]}" for rank, entry in enumerate(everyone) if entry[0] is not None]
        if failures:
            self._told = True
            told = "; ".join(failures)[:2000]
            raise GradGraphError(
                f"{len(failures)} of {self.size} ranks failed, so that there is no result on any: {told}"
            )
        apart = [rank for rank, entry in enumerate(everyone) if entry[1:3] != everyone[0][1:3]]
        if apart:
            self._told = True
            raise GradGraphError(
                f"ranks do different things: rank 0 is at {everyone[0][1:3]}, rank {apart[0]} at "
                f"{everyone[apart[0]][1:3]}. All ranks must make the same calls with the same arguments."
            )
        return [entry[3] for entry in everyone]

    def _reported(self) -> _Reported:
        return _Reported(self)

    def _wire(self, tensor: Tensor) -> torch.device:
        """A device on which the process group exchanges tensors: the tensor's own where NCCL serves it."""
        served = dict(pair.split(":") for pair in dist.get_backend_config().split(","))
        if served.get(tensor.device.type) == "nccl" or "cpu" not in served:
            if tensor.device.type == "cuda":
                return tensor.device
            return self._device or torch.device("cuda", torch.cuda.current_device())
        return torch.device("cpu")

    @staticmethod
    def _unpack(packed: Tensor, tensors: Sequence[Tensor]) -> None:
        for tensor, part in zip(tensors, torch.split(packed, [one.numel() for one in tensors]), strict=True):
            tensor.detach().copy_(part.view(tensor.shape))


class _Reported:
    """Turns an error of the process group into one that says what to look for."""

    def __init__(self, share: Share) -> None:
        self._share = share

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(error, RuntimeError) and not isinstance(error, GradGraphError):
            self._share._told = True  # nobody is left to tell
            first = str(error).partition("\n")[0][:300]
            raise GradGraphError(
                f"the process group failed on rank {self._share.rank}: {first}. Another rank died, or worked longer "
                "than the group's timeout (torch.distributed.init_process_group(timeout=...)); see its own output."
            ) from error


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.float32 if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.dtype
