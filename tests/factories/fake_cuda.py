"""CUDA without a GPU: devices, streams, events and page-locked memory on the CPU, in order."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch

from linprobe_extract.encoders.encoder import Encoder

Step = tuple[str, int]
"""What was done, and the current device or the number of images."""


class FakeEvent:
    """Says that it is over once somebody has waited for it."""

    def __init__(self, steps: list[Step]) -> None:
        self._steps = steps
        self._is_over = False

    def record(self, _stream: object) -> None:
        pass

    def query(self) -> bool:
        return self._is_over

    def synchronize(self) -> None:
        self._is_over = True
        self._steps.append(("waited", 0))


class FakeStream:
    def wait_stream(self, _other: object) -> None:
        pass


class FakeCuda:
    """Two GPUs, as ``torch.cuda`` shows them; what is asked of them is in ``steps``.

    ``page_lockable`` is the greatest number of bytes that may be page-locked at once.
    """

    def __init__(self, patch: pytest.MonkeyPatch, *, page_lockable: int = 1 << 40) -> None:
        self.steps: list[Step] = []
        self.current = 0
        self.page_lockable = page_lockable
        empty, to = torch.empty, torch.Tensor.to

        def fake_empty(*args: Any, pin_memory: bool = False, **kwargs: Any) -> torch.Tensor:  # noqa: ANN401 - passed through
            on_gpu = getattr(kwargs.get("device"), "type", "cpu") == "cuda"
            room: torch.Tensor = empty(*args, **kwargs | ({"device": "cpu"} if on_gpu else {}))
            if pin_memory:
                self.steps.append(("page-locked on", self.current))
                if room.nbytes > self.page_lockable:
                    raise RuntimeError("CUDA error: out of memory\nCUDA kernel errors might ...")
            return room

        def fake_to(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:  # noqa: ANN401 - passed through
            if args and isinstance(args[0], torch.device) and args[0].type == "cuda":
                self.steps.append(("copied to", args[0].index))
                return tensor.clone() if tensor.dtype == torch.uint8 else tensor
            moved: torch.Tensor = to(tensor, *args, **kwargs)
            return moved

        fakes = {
            "is_available": lambda: True,
            "device_count": lambda: 2,
            "get_device_name": lambda _device: "a fake GPU",
            "get_device_capability": lambda _device: (7, 0),
            "set_device": lambda device: self._choose(device.index),
            "device": self._chosen,
            "Stream": lambda _device: FakeStream(),
            "current_stream": lambda _device: FakeStream(),
            "stream": lambda _stream: nullcontext(),
            "Event": lambda: FakeEvent(self.steps),
        }
        for name, fake in fakes.items():
            patch.setattr(torch.cuda, name, fake)
        patch.setattr(torch, "empty", fake_empty)
        patch.setattr(torch.Tensor, "to", fake_to)
        patch.setattr(torch.Tensor, "record_stream", lambda _tensor, _stream: None)

    def _choose(self, index: int) -> None:
        self.current = index
        self.steps.append(("current is", index))

    @contextmanager
    def _chosen(self, device: torch.device) -> Iterator[None]:
        before, self.current = self.current, device.index
        yield
        self.current = before

    def encoder(self, encoder: Encoder) -> Encoder:
        """An encoder that believes to be on the second GPU."""
        fake = Encoder(encoder.spec, encoder.names, encoder._taps)
        fake.device = torch.device("cuda", 1)
        return fake
