"""Pictures of detections: one image with masks, boxes and labels, and a page that compares with ground truth.

Everything is drawn into arrays; no window, display or global matplotlib state is needed.
Shapes: D detections of one image, H W its size. Images are BGR as OpenCV reads them, boxes are pixels.
"""

import os

import cv2
import numpy as np

from utils.files import atomic_path

# Only for callers that hand in no list of their own; eval.py hands in COLORS of data/config.py.
PALETTE = ((230, 57, 70), (29, 123, 216), (42, 157, 82), (247, 160, 32), (131, 72, 196), (0, 168, 181),
           (214, 51, 132), (122, 139, 20))
MASK_ALPHA = 0.45
_FONT = cv2.FONT_HERSHEY_SIMPLEX
# A4 portrait at 150 dots per inch, and the white space on it, in pixels.
_PAGE_WIDTH, _PAGE_HEIGHT, _PAGE_DPI = 1240, 1754, 150
_MARGIN, _HEADER, _GAP, _PAIR_GAP, _ROW_GAP = 44, 124, 8, 30, 14
_PAIRS_PER_PAGE = 12


def draw_detections(image_bgr, classes, scores, boxes, masks, class_names, show_masks=True, show_boxes=True,
                    show_text=True, show_scores=True, colors=PALETTE):
    """Draw detections over a copy of an image, the one with the highest score on top.

    Masks are blended by the original's formula: image * prod_j(1 - a m_j) + sum_j colour_j a m_j
    prod_{k<j}(1 - a m_k), with a = 0.45 and j in the order of falling scores. Colours go by instance.

    Args:
        image_bgr: uint8 [H, W, 3].
        classes: int [D], from 0 without background; a negative one is a crowd.
        scores: float [D], or None for ground truth, which is drawn in the order given and without numbers.
        boxes: [D, 4] x1, y1, x2, y2 in pixels; parts outside the image are not drawn.
        masks: bool [D, H, W] or None.
        class_names: names by class index; None shows the class number.
        show_masks, show_boxes, show_text, show_scores: what to draw; scores are part of the text.
        colors: list of (red, green, blue), 0..255, COLORS of data/config.py as a rule.

    Returns:
        uint8 [H, W, 3].
    """
    order = _by_falling_score(scores, len(classes))
    instance_colors = [_instance_color(rank, colors) for rank in range(len(order))]
    if show_masks and masks is not None:
        drawn = _blend_masks(image_bgr, [masks[index] for index in order], instance_colors)
    else:
        drawn = np.ascontiguousarray(image_bgr).copy()
    corners = [_visible_corners(boxes[index], drawn.shape) for index in order]
    if show_boxes:
        _draw_boxes(drawn, corners, instance_colors)
    if show_text:
        shown_scores = scores if show_scores else None
        texts = [_label_text(index, classes, shown_scores, class_names) for index in order]
        _draw_labels(drawn, texts, corners, instance_colors)
    return drawn


def comparison_page(items, path, title, class_names=None, colors=PALETTE, score_threshold=0.3):
    """Write one A4 page of image pairs, ground truth on the left and prediction on the right.

    A prediction has the colour of the object that its box fits best. Small images are enlarged.

    Args:
        items: list of dicts, the first 12 of which are drawn: "image" uint8 [H, W, 3] BGR, "gt" (classes,
            masks, boxes), "pred" (classes, scores, masks, boxes), all as for ``draw_detections``.
        path: PNG file; its folder is made.
        title: the line at the top, for example the configuration and its AP.
        class_names: names by class index; None shows class numbers.
        colors: list of (red, green, blue), 0..255.
        score_threshold: predictions with a lower score are not drawn.

    Raises:
        ValueError: there is no item.
    """
    if not items:
        raise ValueError("comparison_page needs at least one image, but the list of items is empty")
    items = list(items)[:_PAIRS_PER_PAGE]
    columns, (cell_width, cell_height) = _page_grid([item["image"].shape for item in items])
    pairs = [_pair(item, (cell_width, cell_height), class_names, colors, score_threshold) for item in items]
    rows = [pairs[start:start + columns] for start in range(0, len(pairs), columns)]
    heights = [max(picture.shape[0] for pair in row for picture in pair) for row in rows]
    spare = _PAGE_HEIGHT - _HEADER - _MARGIN - sum(heights)
    row_gap = min(_MARGIN, spare // (len(rows) - 1)) if len(rows) > 1 else 0
    page = np.full((_PAGE_HEIGHT, _PAGE_WIDTH, 3), 255, np.uint8)
    heads, top = [], _HEADER
    for row, height in zip(rows, heights):
        for column, pair in enumerate(row):
            for side, picture in enumerate(pair):
                left = _MARGIN + column * (2 * cell_width + _GAP + _PAIR_GAP) + side * (cell_width + _GAP)
                x, y = left + (cell_width - picture.shape[1]) // 2, top + (height - picture.shape[0]) // 2
                page[y:y + picture.shape[0], x:x + picture.shape[1]] = picture
                if row is rows[0]:
                    heads.append((left + cell_width / 2, ("ground truth", "prediction")[side]))
        top += height + row_gap
    note = f"predictions with a score of at least {score_threshold:g}"
    _save_page(page, path, title, note, heads)


def _by_falling_score(scores, count):
    """Indices in the order of falling scores, equal ones as given; the given order if there are no scores."""
    return np.arange(count) if scores is None else np.argsort(-np.asarray(scores), kind="stable")


def _instance_color(rank, colors):
    """BGR colour of the rank-th instance; the original's stride of 5 keeps neighbours apart in its list."""
    red, green, blue = colors[rank * 5 % len(colors)]
    return int(blue), int(green), int(red)


def _blend_masks(image_bgr, masks, instance_colors):
    """Blend masks over a copy of the image, the first on top."""
    # Painting from the last to the first equals the formula and needs one float image, not one per mask.
    blended = image_bgr.astype(np.float32)
    for mask, color in zip(reversed(masks), reversed(instance_colors)):
        inside = np.asarray(mask).astype(bool, copy=False)
        blended[inside] = blended[inside] * (1 - MASK_ALPHA) + np.float32(color) * MASK_ALPHA
    return np.clip(np.rint(blended), 0, 255).astype(np.uint8)


def _draw_outlines(image, masks, instance_colors):
    """Trace every mask with a thin line, the first on top; changes ``image``."""
    for mask, color in zip(reversed(masks), reversed(instance_colors)):
        contours = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)[-2]
        cv2.drawContours(image, contours, -1, color, 1, cv2.LINE_AA)


def _visible_corners(box, shape):
    """Integer corners of the part of a box inside the image, both inclusive; None if no part is."""
    x1, y1, x2, y2 = (int(round(float(value))) for value in box)
    height, width = shape[:2]
    if x2 < 0 or y2 < 0 or x1 >= width or y1 >= height or x2 < x1 or y2 < y1:
        return None
    return max(x1, 0), max(y1, 0), min(x2, width - 1), min(y2, height - 1)


def _draw_boxes(image, corners, instance_colors):
    """Draw the outline of every box, the first on top; changes ``image``."""
    thickness = max(1, round(min(image.shape[:2]) / 500))
    for box, color in zip(reversed(corners), reversed(instance_colors)):
        if box is not None:
            cv2.rectangle(image, box[:2], box[2:], color, thickness)


def _label_text(index, classes, scores, class_names):
    class_index = int(classes[index])
    if class_index < 0:
        name = "crowd"
    else:
        name = str(class_index) if class_names is None else class_names[class_index]
    return name if scores is None else f"{name} {float(scores[index]):.2f}"


def _draw_labels(image, texts, corners, instance_colors, crowded=1.0):
    """Write each text on a plate of its colour at its box, inside the picture and off the other plates.

    Leaves out a text whose plate would cover more than the share ``crowded`` of itself of earlier plates.
    """
    wanted_scale = min(max(min(image.shape[:2]) / 800, 0.35), 1.5)
    plates = []
    for text, box, color in zip(texts, corners, instance_colors):
        if box is None:
            continue
        scale, size = _fitting_text(text, wanted_scale, image.shape)
        plate, cover = _place_plate(box, size, image.shape, [other[0] for other in plates])
        if cover <= crowded * size[0] * size[1] or crowded >= 1:
            plates.append((plate, text, scale, color))
    for (x, y, width, height), text, scale, color in reversed(plates):
        surface = np.empty((height, width, 3), np.uint8)  # apart, so that no letter leaves its plate
        surface[:] = color
        baseline = cv2.getTextSize(text, _FONT, scale, 1)[1]
        bright = color[0] * 0.114 + color[1] * 0.587 + color[2] * 0.299 > 150
        ink = (0, 0, 0) if bright else (255, 255, 255)
        start = (2, height - 1 - max(1, baseline - 1))
        image[y:y + height, x:x + width] = cv2.putText(
            surface, text, start, _FONT, scale, ink, 1, cv2.LINE_AA)


def _fitting_text(text, scale, shape):
    """Largest font scale up to ``scale`` that fits the picture's width, and the plate's (width, height)."""
    while True:
        (width, height), baseline = cv2.getTextSize(text, _FONT, scale, 1)
        size = min(width + 4, shape[1]), min(height + baseline + 3, shape[0])
        if width + 4 <= shape[1] or scale <= 0.2:
            return scale, size
        scale *= 0.9


def _place_plate(box, size, shape, taken):
    """The (x, y, width, height) at the box that covers least of the plates taken, and how many pixels."""
    (x1, y1, x2, y2), (width, height) = box, size
    right = x2 - width + 1
    spots = [(x1, y1 - height), (right, y1 - height), (x1, y2 + 1), (right, y2 + 1), (x1, y1),
             (x1, y2 - height + 1), (x1, (y1 + y2 - height) // 2)]
    best, best_cover = None, None
    for x, y in spots:
        x, y = min(max(x, 0), shape[1] - width), min(max(y, 0), shape[0] - height)
        cover = sum(max(0, min(x + width, left + other_width) - max(x, left))
                    * max(0, min(y + height, top + other_height) - max(y, top))
                    for left, top, other_width, other_height in taken)
        if best is None or cover < best_cover:
            best, best_cover = (x, y, width, height), cover
    return best, best_cover


def _page_grid(shapes):
    """Columns of pairs, and (width, height) of a picture's cell, that show the pictures largest."""
    best = None
    for columns in (1, 2, 3):
        rows = -(-len(shapes) // columns)
        pair_width = (_PAGE_WIDTH - 2 * _MARGIN - (columns - 1) * _PAIR_GAP) // columns
        cell = ((pair_width - _GAP) // 2, (_PAGE_HEIGHT - _HEADER - _MARGIN - (rows - 1) * _ROW_GAP) // rows)
        area = sum(min(cell[0] / shape[1], cell[1] / shape[0]) ** 2 * shape[0] * shape[1] for shape in shapes)
        if best is None or area > best[0]:
            best = (area, columns, cell)
    return best[1:]


def _pair(item, cell, class_names, colors, score_threshold):
    """Pictures of the ground truth and of the prediction, both as large as the cell allows."""
    image = item["image"]
    factor = min(cell[0] / image.shape[1], cell[1] / image.shape[0])
    size = (max(1, round(image.shape[1] * factor)), max(1, round(image.shape[0] * factor)))
    canvas = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA)

    gt_classes, gt_masks, gt_boxes = item["gt"]
    classes, scores, masks, boxes = item["pred"]
    order = [index for index in _by_falling_score(scores, len(classes)) if scores[index] >= score_threshold]
    gt_order = range(len(gt_classes))
    ranks = _matching_ranks([gt_boxes[index] for index in gt_order], [boxes[index] for index in order])
    pictures = []
    for shown, shown_ranks, shown_masks, shown_boxes, shown_classes, shown_scores in (
            (gt_order, gt_order, gt_masks, gt_boxes, gt_classes, None),
            (order, ranks, masks, boxes, classes, scores)):
        instance_colors = [_instance_color(rank, colors) for rank in shown_ranks]
        texts = [_label_text(index, shown_classes, shown_scores, class_names) for index in shown]
        scaled_masks = [_resize_mask(shown_masks[index], size) for index in shown]
        scaled_boxes = [np.asarray(shown_boxes[index], np.float64) * factor for index in shown]
        pictures.append(_draw_enlarged(canvas, scaled_masks, scaled_boxes, texts, instance_colors))
    return pictures


def _draw_enlarged(canvas, masks, boxes, texts, instance_colors):
    """One picture of the page: outlined masks, boxes and as many labels as find room."""
    drawn = _blend_masks(canvas, masks, instance_colors)
    _draw_outlines(drawn, masks, instance_colors)
    corners = [_visible_corners(box, drawn.shape) for box in boxes]
    _draw_boxes(drawn, corners, instance_colors)
    _draw_labels(drawn, texts, corners, instance_colors, crowded=0.15)
    return drawn


def _resize_mask(mask, size):
    """Mask at another (width, height), with smooth instead of stepped edges."""
    soft = np.asarray(mask).astype(np.float32)
    return cv2.resize(soft, size, interpolation=cv2.INTER_LINEAR) > 0.5


def _matching_ranks(gt_boxes, boxes):
    """Colour rank of every prediction: that of the free ground truth it fits best, else one of its own."""
    free, ranks, next_rank = set(range(len(gt_boxes))), [], len(gt_boxes)
    for box in boxes:
        overlaps = {index: _box_iou(box, gt_boxes[index]) for index in free}
        best = max(overlaps, key=overlaps.get, default=None)
        if best is not None and overlaps[best] >= 0.3:
            free.remove(best)
            ranks.append(best)
        else:
            ranks.append(next_rank)
            next_rank += 1
    return ranks


def _box_iou(one, other):
    """Intersection over union of two boxes x1, y1, x2, y2."""
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    shared = np.prod(np.maximum(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0))
    union = np.prod(one[2:] - one[:2]) + np.prod(other[2:] - other[:2]) - shared
    return float(shared / union) if union > 0 else 0.0


def _save_page(page, path, title, note, heads):
    """Set the lines of text and write the PNG."""
    # Here, because importing matplotlib takes longer than evaluating a small data set that needs no page.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_PAGE_WIDTH / _PAGE_DPI, _PAGE_HEIGHT / _PAGE_DPI), dpi=_PAGE_DPI)
    FigureCanvasAgg(figure)
    figure.figimage(page[:, :, ::-1], origin="upper")
    left, right = _MARGIN / _PAGE_WIDTH, 1 - _MARGIN / _PAGE_WIDTH
    heading = figure.text(left, 1 - 54 / _PAGE_HEIGHT, title, fontsize=13, fontweight="bold", color="#1c2733")
    renderer = figure.canvas.get_renderer()
    while heading.get_window_extent(renderer).x1 > right * _PAGE_WIDTH and heading.get_fontsize() > 1:
        heading.set_fontsize(0.95 * heading.get_fontsize())
    small = {"fontsize": 8, "color": "#66727f"}
    figure.text(right, (_MARGIN - 26) / _PAGE_HEIGHT, note, ha="right", **small)
    for x, text in heads:
        figure.text(x / _PAGE_WIDTH, 1 - (_HEADER - 12) / _PAGE_HEIGHT, text, ha="center", **small)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=_PAGE_DPI, format="png")


def write_image(path, image_bgr):
    """Write a picture (format by the suffix), atomically; its folder is made.

    Raises:
        OSError: it cannot be written, or OpenCV has no encoder for the suffix.
    """
    suffix = os.path.splitext(path)[1]
    try:
        encoded = cv2.imencode(suffix, image_bgr)[1]
    except cv2.error:
        raise OSError(f"{path}: OpenCV cannot write the format {suffix!r}; take .png or .jpg") from None
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(encoded.tobytes())
