"""When a device has no room: every library's word for it as one error, and room made again."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch

from linprobe.errors import ExtractError

_WORDS = (
    "out of memory",  # torch's allocator; the CUDA runtime, of page-locked memory too
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # what cublasCreate says where its workspace has no room
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "unable to find an engine to execute",  # cuDNN, none of whose plans has room for its workspace
    "DefaultCPUAllocator: can't allocate memory",
)
"""Sources: the manuals of cuBLAS and cuDNN, cudnnStatus_t; accelerate's should_reduce_batch_size;
lightning's is_oom_error."""


class DeviceMemoryError(ExtractError):
    """A batch, or the tower itself, does not fit the device's memory."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a library of the device says that there is no room."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


@contextmanager
def memory_of(device: torch.device, model: str, n_images: int) -> Iterator[None]:
    """Make ``device`` the current one, since page-locked memory belongs to that one's context.

    A DeviceMemoryError is raised, naming the model and the images at once, where there is no room.
    """
    try:
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            yield
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        words = str(error).partition("\n")[0].strip()
        raise DeviceMemoryError(
            f"'{model}' does not fit the memory of {device} with {n_images} images at once"
            + (f": {words}" if words else ""),
            hint="free the device's memory, choose a smaller model, or --device cpu",
        ) from error


def free_memory() -> None:
    """Give back what failed batches have left in the caches of torch.

    To be called when their error is no longer held: its frames hold the tensors. cuBLAS and cuDNN
    take from the device, not from torch's cache; page-locked blocks are never split for smaller.
    """
    gc.collect()
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
        torch._C._host_emptyCache()  # noqa: SLF001 - there is no public name
