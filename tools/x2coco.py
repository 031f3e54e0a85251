"""Makes COCO instance files for training out of annotations in other formats.

    python tools/x2coco.py --format=labelme --annotations=fish --out=data/fish
    python tools/x2coco.py --format=voc --annotations=VOCdevkit/VOC2012 --out=data/voc
    python tools/x2coco.py --format=sbd --annotations=data/sbd --out=data/sbd --name=pascal_sbd
    python tools/x2coco.py --format=yolo --annotations=fish --out=data/fish           (data.yaml, images/, labels/)
    python tools/x2coco.py --format=instance_masks --annotations=masks --images=pictures --classes=salmon,pike \\
        --out=data/fish

writes OUT/<name>_train.json, OUT/<name>_val.json and OUT/<name>_preview.png (look at it), and prints what was left out
and the lines for data/config.py. SBD's files are those that yolact_resnet50_pascal_config reads.

labelme: a JSON file a picture. Polygons, rectangles, circles and masks; shapes of one label and group_id are one
    object, and one of them wholly inside another is a hole.
voc: JPEGImages, SegmentationClass, SegmentationObject, ImageSets/Segmentation/{train,val}.txt. Classes of your own:
    class_names.txt in the folder, or --classes.
sbd: img, inst (.mat), train.txt, val.txt.
yolo: lines "class x y x y ..." in shares of the picture; names from data.yaml, classes.txt or --classes. A picture
    without a label file is one without objects.
instance_masks: MASKS/a.png for PICTURES/a.jpg. With one class every value or colour but black is an object; with
    several it is class * 1000 + object, the classes from 1 in the order of --classes, and a value under 1000 is a
    crowd region of the class. Or MASKS/a/<class>_<n>.png, one object each.

The lists of VOC and SBD, or folders called train and val, are the split; else --val_share and --seed are (lists of
pictures that YOLO's data.yaml names are not read). Pictures stay where they are. Those that EXIF turns are annotated
upright by most tools, while training reads stored pixels: their objects are turned to fit, and the network sees them
sideways. --copy writes them upright.
"""
from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Sequence
from typing import Any

if __package__ in (None, ""):  # run as a script: python tools/x2coco.py
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from data.images import DatasetError  # noqa: E402
from tools.annotations import labelme  # noqa: E402
from tools.annotations.coco_file import (  # noqa: E402
    coco_contents,
    config_lines,
    for_config,
    split_pictures,
    summary,
    write_files,
)
from tools.annotations.copies import common_folder, copy_pictures, note_turned  # noqa: E402
from tools.annotations.formats import (  # noqa: E402
    FORMATS,
    given_classes,
    guess_format,
    image_folder,
    keep_known,
    own_classes,
    read_all,
)
from tools.annotations.objects import Report, Source  # noqa: E402
from tools.annotations.preview import contact_sheet  # noqa: E402
from utils.files import atomic_folder  # noqa: E402


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--format", choices=sorted(FORMATS), help="of the annotations (default: as the folder looks)")
    add("--annotations", required=True, help="folder of the annotations or of the whole data set")
    add("--images", help="folder of the pictures (default: where the format has them)")
    add("--out", required=True, help="folder to write; files of the same names are replaced")
    add("--name", default="instances", help="how the files' names begin (default: %(default)s)")
    add("--val_share", type=float, default=0.1, help="share of pictures for validation (default: %(default)s)")
    add("--seed", type=int, default=0, help="another one splits otherwise (default: %(default)s)")
    add("--classes", help="names in order, as a,b,c or a file of lines (default: from the annotations)")
    add("--skip_unknown", action="store_true", help="leave out objects of other classes than these")
    add("--copy", action="store_true", help="link or copy the pictures into OUT/images, turned ones upright")
    args = parser.parse_args(argv)
    if not 0 < args.val_share < 1:
        parser.error(f"--val_share={args.val_share:g} is no share; use more than 0 and less than 1, such as 0.1")
    if not args.name or os.path.basename(args.name) != args.name:
        parser.error(f"--name={args.name} is no start of a file name; folders belong to --out")
    return args


def run(args: argparse.Namespace) -> None:
    """Everything but the handling of the user's mistakes."""
    if not os.path.isdir(args.annotations):
        raise DatasetError(f"{args.annotations} is no folder; correct --annotations")
    if os.path.lexists(args.out) and not os.path.isdir(args.out):
        raise DatasetError(f"{args.out} is no folder; give another --out")
    name = args.format or guess_format(args.annotations)
    images = image_folder(args.annotations, args.images, FORMATS[name])
    source = Source(args.annotations, images, given_classes(args.classes), Report())
    if source.classes is None:
        source.classes = own_classes(FORMATS[name], source)
    copies = os.path.join(args.out, "images")
    if args.copy and os.path.lexists(copies) and (not os.path.isdir(copies) or os.listdir(copies)):
        raise DatasetError(f"{copies} is there already; remove it, or give another --out")
    jobs = FORMATS[name].find(source)
    pictures = read_all(FORMATS[name], source, jobs)
    if name == "labelme":
        labelme.report_unannotated(source, jobs, pictures)
    classes = keep_known(pictures, source, args.skip_unknown)
    folder = common_folder(pictures, source.images)
    with atomic_folder(copies) if args.copy else contextlib.nullcontext(folder) as written:
        if args.copy:
            pictures = copy_pictures(pictures, folder, written, source.report)
        how = split_pictures(pictures, folder, args.val_share, args.seed, source.report)
        contents = coco_contents(pictures, folder, classes, args.copy, source.report)
        stem = os.path.join(args.out, args.name)
        write_files(contents, contact_sheet(contents, written), stem)
    if not args.copy:
        note_turned(pictures, folder, source.report)
    print_result(contents, source.report, how, stem, copies if args.copy else folder, name)


def print_result(contents: dict[str, Any], report: Report, how: str, stem: str, folder: str, name: str) -> None:
    """Summary, what was left out, and what to do next."""
    print(summary(contents))
    print(f"\nsplit by {how}")
    for line in report.lines():
        print(line)
    print(f"\nwritten: {stem}_train.json, {stem}_val.json; look at {stem}_preview.png")
    if name == "sbd" and for_config(stem) == "./data/sbd/pascal_sbd":
        print("next: python tools/check_dataset.py --config=yolact_resnet50_pascal_config")
    else:
        print(f"for data/config.py:\n\n{config_lines(stem, folder)}")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; a user's mistake ends in one line and exit code 1."""
    args = parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names that the terminal cannot show
    try:
        run(args)
    except (DatasetError, OSError) as error:
        sys.exit(f"x2coco.py: error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
