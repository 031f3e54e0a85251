"""Opens every picture of a data set, as far as its header, and compares it with the annotation file."""

from __future__ import annotations

import collections
import io
import warnings

from PIL import Image
from tqdm import tqdm

from data.findings import Finding, finding_of
from data.images import is_complete
from data.inspection import Inspection

ORIENTATION = 0x0112  # EXIF's tag; 1: as stored, from 5 on width and height are exchanged

# Phrase of the finding: its level and fix.
_FAULTS = {
    "pictures are cut off or no pictures": ("warning", "replace or remove them"),
    "pictures have another size than 'images' says": ("warning", "correct width and height, and check the annotations"),
    "pictures are annotated as their EXIF orientation turns them, but data sets are read as stored": (
        "warning", "write the pictures anew, turned and without the tag"),
    "pictures have an EXIF orientation, which is not followed": (
        "note", "check that the annotations are for the picture as stored, or write the pictures anew without the tag"),
}
_UNREADABLE, _OTHER_SIZE, _ANNOTATED_TURNED, _HAS_ORIENTATION = _FAULTS


def picture_findings(inspection: Inspection, bar: bool = True) -> list[Finding]:
    """What is wrong with the pictures that are there.

    Args:
        bar: show a progress bar.
    """
    found = collections.defaultdict(list)
    images = [image for image in inspection.images if image["id"] in inspection.files]
    for image in tqdm(images, desc=inspection.info_file, unit="picture", disable=not bar, dynamic_ncols=True):
        fault, remark = _fault(inspection.files[image["id"]], image.get("width"), image.get("height"))
        if fault is not None:
            found[fault].append(f"{image['file_name']}{remark}")
    return [finding for fault, (level, fix) in _FAULTS.items()
            for finding in finding_of(level, fault, fix, found[fault], len(images))]


def _fault(path: str, width: float | None, height: float | None) -> tuple[str | None, str]:
    """(one of `_FAULTS` or None, remark for the example) of a picture that should have this size, if one is given."""
    try:
        with open(path, "rb") as file:
            data = file.read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's opinion of large pictures and odd EXIF data
            with Image.open(io.BytesIO(data)) as picture:
                size, orientation = picture.size, picture.getexif().get(ORIENTATION, 1)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        return _UNREADABLE, f": {error.strerror}" if isinstance(error, OSError) and error.strerror else ""
    if not is_complete(data):
        return _UNREADABLE, ": cut off"
    is_sized = width is not None and height is not None
    is_turned = isinstance(orientation, int) and 5 <= orientation <= 8
    if is_sized and size != (width, height):
        if is_turned and size == (height, width):
            return _ANNOTATED_TURNED, ""
        return _OTHER_SIZE, f": {size[0]} x {size[1]}, not {width} x {height}"
    return (_HAS_ORIENTATION if is_turned or orientation in (2, 3, 4) else None), ""
