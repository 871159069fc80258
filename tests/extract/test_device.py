"""The encoder on its device: pixels go up, features come down, in order."""

from encoder_factories import random_pixels

from linprobe_extract.encoders.device import empty_pixels, launcher
from linprobe_extract.encoders.encoder import Encoder


def test_decoders_write_whole_rows_and_the_device_turns_them_to_planes_with_equal_features(
    encoder: Encoder,
) -> None:
    planes = random_pixels(3, encoder.image_size)
    rows = empty_pixels(3, encoder.image_size)
    rows.copy_(planes)

    assert rows.shape == planes.shape
    assert all(slot.permute(1, 2, 0).is_contiguous() for slot in rows)
    launch = launcher(encoder)
    want, got = launch(planes)(), launch(rows)()
    assert all((want[tap] == got[tap]).all() for tap in want)
