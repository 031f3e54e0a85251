"""Look through a data set before training: everything that is wrong or odd, with examples and the fix.

    python tools/check_dataset.py --config=yolact_fish_config
    python tools/check_dataset.py --dataset=coco2017_dataset --html=coco.html --open_images
    python tools/check_dataset.py --info=fish/train.json --images=fish/train      # classes as in the JSON

Errors stop a training; warnings tell what is left out or probably wrong; notes are worth knowing. Pictures are looked
for, and opened only with --open_images. Ends with exit code 1 if there are errors, else 0.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data.config import MEANS, STD, ConfigError, cfg, configure  # noqa: E402
from data.findings import LEVELS  # noqa: E402
from data.inspection import Inspection, inspect_dataset, inspect_splits  # noqa: E402
from tools.dataset_page.charts import charts_png  # noqa: E402
from tools.dataset_page.page import page_html  # noqa: E402
from tools.dataset_page.pictures import picture_findings  # noqa: E402
from utils.augmentations import build_augmentation  # noqa: E402
from utils.config_options import add_config_options  # noqa: E402
from utils.files import atomic_path  # noqa: E402


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line as a namespace; exits with a message on a wrong one."""
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    add = parser.add_argument
    add_config_options(add, "yolact_base_config", "max_size=400 dataset.train_info=train.json")
    add("--info", metavar="FILE.json", help="check this file alone, with the classes that it has; needs --images")
    add("--images", metavar="DIR", help="folder of the pictures of --info")
    add("--open_images", action="store_true", help="open every picture: size, EXIF orientation, cut off or no picture")
    add("--html", metavar="FILE", help="write all of it as one web page, with histograms")
    add("--png", metavar="FILE", help="write the histograms as a picture")
    add("--no_bar", action="store_true", help="no progress bar")
    args = parser.parse_args(argv)
    if (args.info is None) != (args.images is None):
        parser.error("--info and --images belong together; give both")
    if args.info is not None and args.dataset is not None:
        parser.error("--info is a data set of its own; leave --dataset out")
    return args


def inspect(args: argparse.Namespace) -> dict[str, Inspection]:
    """{name of the split: what was found}, by the global cfg, or of --info."""
    augmentation: Any = build_augmentation(cfg, MEANS, STD, training=True)
    options = {"preserve_aspect_ratio": cfg.preserve_aspect_ratio, "smallest_box": augmentation.smallest_box}
    if args.info is not None:
        return {"data set": inspect_dataset(args.info, args.images, None, None, cfg.max_size, "--info", "--images",
                                            **options)}
    dataset = cfg.dataset
    if dataset.has_gt:
        return dict(zip(("training", "validation"), inspect_splits(dataset, cfg.max_size, **options)))
    # A data set without ground truth, as COCO's test-dev, has nothing to train on.
    return {"test": inspect_dataset(dataset.valid_info, dataset.valid_images, dataset.class_names, dataset.label_map,
                                    cfg.max_size, "dataset.valid_info", "dataset.valid_images", has_gt=False)}


def summary(inspections: Mapping[str, Inspection]) -> str:
    """A table with a line for each split."""
    head = ("", "images", "objects", "crowds", "classes", *(f"{level}s" for level in LEVELS))
    lines = [head]
    for name, inspection in inspections.items():
        crowds = int((inspection.table.label == -1).sum())
        numbers = (len(inspection.images), len(inspection.table.ids) - crowds, crowds, len(inspection.class_names),
                   *(len(inspection.of_level(level)) for level in LEVELS))
        lines.append((name, *map(str, numbers)))
    widths = [max(map(len, column)) for column in zip(*lines)]
    return "\n".join("  ".join(cell.ljust(width) if number == 0 else cell.rjust(width)
                               for number, (cell, width) in enumerate(zip(line, widths))) for line in lines)


def write_files(inspections: Mapping[str, Inspection], args: argparse.Namespace) -> None:
    """--html and --png."""
    if args.html is None and args.png is None:
        return
    charts = charts_png(inspections, cfg.max_size, cfg.preserve_aspect_ratio)
    title = os.path.basename(args.info) if args.info is not None else cfg.dataset.name
    page = page_html(title, inspections, charts, cfg.max_size, cfg.preserve_aspect_ratio)
    for path, content in ((args.html, page.encode("utf-8")), (args.png, charts)):
        if path is not None:
            with atomic_path(path) as temporary:
                Path(temporary).write_bytes(content)
            print(f"written: {path}")


def run(args: argparse.Namespace) -> int:
    """Everything but the handling of the user's mistakes; the exit code."""
    configure(args.config, args.dataset, args.override)
    inspections = inspect(args)
    for inspection in inspections.values():
        if args.open_images:
            inspection.add(picture_findings(inspection, not args.no_bar))
        print(inspection.text())
    print(f"\n{summary(inspections)}")
    write_files(inspections, args)
    return 1 if any(inspection.of_level("error") for inspection in inspections.values()) else 0


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; a user's mistake ends in one line and exit code 1."""
    try:
        code = run(parse_args(argv))
    except (ConfigError, OSError) as error:
        sys.exit(f"check_dataset.py: error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
