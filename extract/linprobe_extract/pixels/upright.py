"""Images turned as their EXIF says, once and for all: what a viewer shows is what is encoded.

Packing and ``predict --images`` both do it by :func:`turned`, so the same photo has the same bytes
and features in both. A JPEG is encoded anew at quality 95 without subsampling of colours: photos
of 224 pixels change by 0.6 gray levels on average, larger ones by less once they are resized. Other
formats become PNG, losslessly.
"""

import io

from PIL import Image, ImageOps

from linprobe.names import image_formats

_ORIENTATION = 0x0112
_UPRIGHT = 1
_QUALITY = 95
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1")
"""What the first box of a HEIF file calls itself."""


def is_heif(data: bytes) -> bool:
    """Whether these bytes are HEIC or HEIF, whatever can be decoded here."""
    return data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS


def turned(data: bytes) -> bytes | None:
    """The bytes of an image file turned as its EXIF says; None where it is upright, or no image.

    TIFF is turned by whoever decodes it, and HEIF too: these are upright.
    """
    try:
        with Image.open(io.BytesIO(data), formats=image_formats()) as image:
            is_turnable = image.format not in ("TIFF", "HEIF")
            if not is_turnable or image.getexif().get(_ORIENTATION, _UPRIGHT) not in range(2, 9):
                return None
            kind, upright = image.format, ImageOps.exif_transpose(image)
            buffer = io.BytesIO()
            if kind in ("JPEG", "MPO"):
                upright.save(buffer, "JPEG", quality=_QUALITY, subsampling=0)
            else:
                upright.save(buffer, "PNG")
    except Exception:  # of damaged files: the decoders raise anything, and say it where it is told
        return None
    return buffer.getvalue()
