"""Text on pictures: plates stay inside and apart, ink is legible, texts are made to fit."""

import numpy as np
import pytest
from matplotlib.ft2font import FT2Font

from data.config import COLORS
from utils import labels
from utils.labels import Label, draw_corner_text, draw_labels, font_file, ink_on, text_size

COLOR = (20, 60, 200)
BORDER_BOXES = {
    "upper left": (0, 0, 3, 3), "upper right": (196, 0, 199, 4), "lower right": (196, 146, 199, 149),
    "lower left": (0, 146, 4, 149), "whole": (0, 0, 199, 149), "top": (90, 0, 110, 20), "bottom": (90, 130, 110, 149),
    "left": (0, 60, 9, 80), "right": (190, 60, 199, 80), "inside": (80, 60, 120, 90)}


def written(text_labels, height=150, width=200, crowded=1.0):
    """A black picture with labels."""
    image = np.zeros((height, width, 3), np.uint8)
    draw_labels(image, text_labels, crowded)
    return image


def plate_of(image):
    """x, y, width, height of what is not black."""
    rows, columns = np.flatnonzero(image.any(axis=(1, 2))), np.flatnonzero(image.any(axis=(0, 2)))
    return columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1


def fitting(name, number, width, height=100, size=20):
    found = labels._fitting(name, number, size, width, height)
    assert found is None or (found.width <= width and found.height <= height)
    return found


# ----------------------------------------------------------------------------------------------------- places

@pytest.mark.parametrize("box", BORDER_BOXES.values(), ids=BORDER_BOXES)
def test_a_whole_plate_lies_inside_the_picture(box):
    text = labels._fitting("triangle", "0.97", text_size(150, 200), 200, 50)
    image = written([Label("triangle", "0.97", box, COLOR)])
    x, y, width, height = plate_of(image)
    assert (width, height) == (text.width, text.height)
    assert (image[y, x:x + width] == COLOR).all() and (image[y:y + height, x] == COLOR).all()  # no letter leaves it
    assert (image[y:y + height, x:x + width] == ink_on(COLOR)).all(axis=2).any()


def test_a_plate_lies_on_its_box():
    x, y, _, height = plate_of(written([Label("triangle", "0.97", (80, 60, 120, 90), COLOR)]))
    assert (x, y + height) == (80, 60)


def test_labels_of_one_box_do_not_cover_each_other():
    images = [written([Label(name, "0.5", (60, 50, 140, 120), COLOR) for name in "abcde"[:count]], 200, 220)
              for count in range(1, 6)]
    areas = [image.any(axis=2).sum() for image in images]
    assert len(set(np.diff(areas))) == 1 and areas[1] == 2 * areas[0]


def test_the_first_label_is_on_top():
    first, *others = [Label("abc", "", (0, 0, 0, 0), color) for color in [(1, 1, 250)] + 9 * [(250, 1, 1)]]
    alone, crowd = written([first], 30, 28), written([first, *others], 30, 28)
    assert alone.any(axis=2).sum() * 10 > 30 * 28  # ten plates have no room beside each other
    assert np.array_equal(crowd[alone.any(axis=2)], alone[alone.any(axis=2)])


def test_labels_without_room_are_left_out_if_asked():
    crowd = [Label("somebody", "0.5", (10, 10, 30, 30), COLOR)] * 40
    image = written(crowd[:1], 60, 80)
    everything, some = written(crowd, 60, 80), written(crowd, 60, 80, crowded=0.0)
    assert image.any(axis=2).sum() < some.any(axis=2).sum()
    assert some.any(axis=2).sum() % image.any(axis=2).sum() == 0  # whole plates only
    assert everything.any(axis=2).sum() >= some.any(axis=2).sum()
    _, cover = labels._place_plate((10, 10, 30, 30), 20, 10, 60, 80, np.array([[0, 0, 80, 60]]))
    assert cover == 200


# -------------------------------------------------------------------------------------------------------- ink

def contrast(one, other):
    """Contrast ratio of WCAG 2 between BGR colours."""
    def luminance(color):
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (c / 255 for c in color)]
        return np.dot(linear, (0.0722, 0.7152, 0.2126))
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_ink_has_contrast_on_every_colour():
    inks = set()
    for color in [*(color[::-1] for color in COLORS), (0, 0, 0), (255, 255, 255), (118, 118, 118), (255, 0, 0)]:
        ink = ink_on(color)
        inks.add(ink)
        assert contrast(ink, color) >= 4.5
        assert contrast(ink, color) >= contrast(tuple(255 - part for part in ink), color) - 0.05
    assert inks == {(0, 0, 0), (255, 255, 255)}


# ------------------------------------------------------------------------------------------------------- sizes

def test_letters_grow_with_the_picture_but_slower():
    assert 11 <= text_size(480, 640) <= 16
    assert 40 <= text_size(3000, 4000) <= 70
    assert text_size(1, 5000) == 9


def test_texts_are_made_smaller_then_cut():
    assert fitting("person", "0.97", 200).size == 20
    small = fitting("person", "0.97", 90)
    assert small.text == "person 0.97" and 7 <= small.size < 20
    cut = fitting("a rather long class name", "0.97", 90)
    assert cut.text.startswith("a rat") and cut.text.endswith("… 0.97") and cut.size == 7
    assert fitting("refrigerator", "0.97", 25).text == "refri…"  # no room for the number
    assert fitting("refrigerator", "0.97", 4) is None
    assert fitting("person", "0.97", 200, height=8) is None
    assert fitting("person", "0.97", 200, height=12).size < 12
    assert fitting("", "", 200) is None and fitting("person", "", 200).text == "person"


@pytest.mark.parametrize("height, width", [(1, 1), (20, 20), (26, 300), (300, 3)])
def test_no_letters_where_they_cannot_be_read(height, width):
    assert not written([Label("person", "0.97", (0, 0, width - 1, height - 1), COLOR)], height, width).any()


@pytest.mark.parametrize("height, width", [(40, 1200), (1200, 40), (96, 96), (3000, 4000)])
def test_letters_in_every_shape_of_picture(height, width):
    image = written([Label("person", "0.97", (5, 5, width - 6, height - 6), COLOR)], height, width)
    assert 0 < image.any(axis=2).mean() < 0.4


def test_line_breaks_are_spaces():
    label = Label("two\n lines", "", (80, 60, 120, 90), COLOR)
    assert np.array_equal(written([label]), written([label._replace(name="two lines")]))


# ------------------------------------------------------------------------------------------------------- fonts

def test_chinese_names_are_taken_from_a_font_of_the_system_if_there_is_one():
    other = font_file("猫")
    assert font_file("c").endswith("DejaVuSans.ttf") and font_file("é") == font_file("c")
    able = [path for path in labels._wide_fonts() if FT2Font(path).get_char_index(ord("猫"))]
    assert other == (able[0] if able else font_file("c"))
    image = written([Label("猫", "0.97", (80, 60, 120, 90), COLOR)])
    box = written([Label("\U0010fffd", "0.97", (80, 60, 120, 90), COLOR)])  # a character that no font has
    assert np.array_equal(image, box) == (other == font_file("c"))


def test_a_name_in_two_fonts_is_as_wide_as_its_parts():
    pad = 2 * labels._pad(20)
    whole, parts = labels._typeset("猫ab犬", 20), [labels._typeset(part, 20) for part in ("猫", "ab", "犬")]
    assert whole.width - pad == pytest.approx(sum(part.width - pad for part in parts), abs=3)
    assert whole.height >= max(part.height for part in parts)
    image = written([Label("猫ab犬", "", (80, 60, 120, 90), COLOR)])
    x, y, width, height = plate_of(image)
    ink = (image[y:y + height, x:x + width] != COLOR).any(axis=(0, 2))
    assert ink[-width // 4:].any() and np.flatnonzero(ink)[0] < width // 8  # written side by side


def test_without_any_other_font_names_are_still_written(monkeypatch):
    monkeypatch.setattr(labels, "_wide_fonts", lambda: ())
    labels._font_with.cache_clear()
    labels._typeset.cache_clear()
    assert font_file("猫") == font_file("c")
    assert written([Label("猫", "0.97", (80, 60, 120, 90), COLOR)]).any()
    labels._font_with.cache_clear()
    labels._typeset.cache_clear()


def test_fonts_of_the_system_are_found_by_their_file_names(monkeypatch):
    from matplotlib import font_manager

    names = ["/f/NotoSansCJK-Bold.ttc", "/f/Arial.ttf", "/f/wqy-microhei.ttc", "/f/NotoSansCJK-Regular.ttc",
             "/f/NotoSansMono-Regular.ttf"]
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: names)
    labels._wide_fonts.cache_clear()
    assert labels._wide_fonts() == ("/f/NotoSansCJK-Regular.ttc", "/f/NotoSansCJK-Bold.ttc", "/f/wqy-microhei.ttc")
    labels._wide_fonts.cache_clear()


# ------------------------------------------------------------------------------------------------- the corner

@pytest.mark.parametrize("background", [0, 255])
def test_the_corner_text_is_in_the_corner_on_a_dark_plate(background):
    image = np.full((480, 640, 3), background, np.uint8)
    draw_corner_text(image, "29.7 FPS")
    changed = image != background
    assert changed[0, 0].any() and not changed[60:].any() and not changed[:, 200:].any()
    assert image[:3, :60].max() < 60 and (image[:40, :120] > 250).all(axis=2).sum() > 20


def test_the_corner_text_fits_small_pictures():
    for shape in ((1, 1), (30, 60), (200, 30)):
        image = np.zeros((*shape, 3), np.uint8)
        draw_corner_text(image, "29.7 FPS")
        assert image.shape == (*shape, 3)
    assert image.any()


def test_the_text_written_is_the_one_asked_for():
    one, other = (written([Label(name, "", (80, 60, 120, 90), COLOR)]).astype(int) for name in ("cab", "bac"))
    assert plate_of(one)[1:2] == plate_of(other)[1:2] and np.abs(one - other).max() > 100
