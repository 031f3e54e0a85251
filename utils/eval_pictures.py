"""What eval.py does with pictures and video: detect, draw, show, write."""
from __future__ import annotations

import contextlib
import functools
import logging
import os
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

# Before paddle: this sets what paddle reads at its import.
from utils.runtime import UserError

# isort: split
import paddle

from data.config_types import Config
from data.images import DatasetError
from utils import ranks
from utils.eval_outputs import check_outputs, class_names_by_category, journal_of, result_files
from utils.files import write_json
from utils.in_out import check_another
from utils.lincomb import lincomb_figure
from utils.pictures import detect_files, image_info, picture_ids
from utils.predictor import Predictor, as_image
from utils.result_journal import ResultJournal
from utils.screen import open_window
from utils.video import VideoSource, run_video, video_in_out
from utils.video_file import VideoFile
from utils.visualize import write_image

MOST_NAMED = 20  # files that were written


def draw_options(args: Namespace) -> dict[str, Any]:
    """The options of draw_detections that the command line chose."""
    return {"show_masks": args.display_masks, "show_boxes": args.display_bboxes, "show_text": args.display_text,
            "show_scores": args.display_scores, "color_by": args.color_by}


def detect_pictures(predictor: Predictor, pairs: Sequence[tuple[str, str]], args: Namespace, config: Config,
                    path: str) -> None:
    """--image and --images: write pictures with their detections drawn; with --output_coco_json result files, too.

    Args:
        pairs: (picture, where the drawn one goes). args: the command line. config: the network's. path: its weights.
    Raises:
        UserError: no picture could be read, or a result would overwrite another one.
    """
    sources, targets = zip(*pairs)
    ids = picture_ids(sources)
    label_map = config.dataset.label_map or {label: label for label in range(1, config.num_classes)}
    files = {}
    if args.output_coco_json:
        files = {**result_files(args, predictor.has_masks), "images": os.path.join(args.output_folder, "images.json")}
        check_outputs(list(files.values()))
    figures = _lincomb_paths(sources, targets) if args.display_lincomb else []
    window = _window_or_warning(config.name) if args.display else None
    with contextlib.ExitStack() as stack:
        journal = None
        if window is not None:
            stack.callback(window.close)
        if files:
            journal = stack.enter_context(journal_of(args, config, path, label_map, predictor.has_masks, sources))

        def finish(place, image, found):
            drawn = None
            if found is not None:
                drawn = predictor.draw(image, found, **draw_options(args))
                write_image(targets[place], drawn)
            if journal is not None:
                journal.add(place, ids[place], found)
            return drawn

        share = range(ranks.rank(), len(pairs), ranks.count())
        places = [place for place in share if journal is None or place not in journal.done]
        done, ended = detect_files(predictor, sources, places, finish, window, bar=not args.no_bar and len(pairs) > 1)
        if not any(ranks.gathered(len(done) + len(share) - len(places))):
            raise UserError("none of the pictures could be read; see the warnings above")
        written, crop = [targets[place] for place in done], args.crop and config.mask_proto_crop
        if args.display_lincomb:
            written += [figures[place] for place in (done if ended else share)
                        if draw_lincomb(predictor, sources[place], figures[place], crop)]
        if files and ended:
            logging.warning("ended in the window, so there are no result files; --resume goes on")
        elif journal is not None and ranks.rank() == 0:
            names = class_names_by_category(label_map, config.dataset.class_names)
            _write_results(journal, files, image_info(sources, ids, names))
            written += files.values()
    tell(written)


def _write_results(journal: ResultJournal, files: Mapping[str, str], info: Mapping[str, Any]) -> None:
    """Write the result files and what the image ids in them stand for; the journal is done with."""
    journal.write(files["bbox"], files.get("segm"))
    write_json(files["images"], info, indent=1)
    journal.remove()


def tell(written: Sequence[str]) -> None:
    """Print the names of files; of many pictures, how many and where."""
    if len(written) <= MOST_NAMED:
        print("\n".join(f"written: {path}" for path in written))
        return
    pictures = [path for path in written if not path.endswith(".json")]
    print(f"written: {len(pictures)} pictures in {os.path.commonpath([os.path.dirname(path) for path in pictures])}")
    tell([path for path in written if path.endswith(".json")])


def _window_or_warning(title: str) -> Any:
    """A window; where there can be none, None and a warning, as the results are written all the same."""
    try:
        return open_window(title)
    except UserError as error:
        logging.warning("--display: %s", error)
        return None


@paddle.no_grad()
def draw_lincomb(predictor: Predictor, source: str, path: str, crop: bool) -> bool:
    """Draw how the mask of a picture's best detection is made of prototypes; returns whether there is one."""
    try:
        image = as_image(source)
    except DatasetError:  # it was told of before
        return False
    [detection] = predictor.detections_of(predictor.network(predictor.transform(image)[None]))
    found, rows = predictor.instances_and_rows(detection, *image.shape[:2])
    if not len(found):
        logging.warning("--display_lincomb: nothing was found in %s", source)
        return False
    title = f"{found.names[0]} {found.scores[0]:.2f} in {os.path.basename(source)}"
    lincomb_figure(path, image, detection["proto"].numpy(), detection["mask"][int(rows[0])].numpy(), found.window(0),
                   found.boxes[0], title, crop=crop)
    return True


def _lincomb_paths(sources: Sequence[str], targets: Sequence[str]) -> list[str]:
    """Where the figures of prototypes go: beside the results.

    Raises:
        UserError: one would overwrite a picture or a result.
    """
    figures = [os.path.splitext(target)[0] + "_lincomb.png" for target in targets]
    overwritten = {*sources, *targets}.intersection(figures)
    if overwritten:
        raise UserError(f"--display_lincomb would overwrite {min(overwritten)}; name another place after the colon")
    return figures


def detect_video(predictor: Predictor, args: Namespace) -> None:
    """--video: a file or a camera, to a file or into a window.

    Raises:
        UserError: it cannot be read or written, or a camera has no window.
    """
    source, target = video_in_out(args.video)
    video = VideoSource(source)
    sink: Any
    if target is None:
        try:
            sink = open_window(video.name)
        except UserError as error:
            if video.live:
                raise
            target = os.path.join(args.output_folder, os.path.splitext(os.path.basename(str(source)))[0] + ".mp4")
            check_another(str(source), target)
            logging.warning("%s; writing %s", str(error).partition(";")[0], target)
    if target is not None:
        sink = VideoFile(target, video.fps, video.size)

    def predict(frames):
        return predictor.detect_prepared([predictor.transform(frame) for frame in frames],
                                         [frame.shape[:2] for frame in frames])

    frames, seconds, fps = run_video(video, predict, functools.partial(predictor.draw, **draw_options(args)), sink,
                                     args.video_multiframe, args.display_fps, args.emulate_playback, not args.no_bar)
    print(f"{frames} frames in {seconds:.1f} s, {fps:.2f} FPS from reading to writing")
    if target is not None:
        print(f"written: {target}")
