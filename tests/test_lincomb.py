"""The figure of a mask's prototypes: what its cells hold and say."""

import warnings

import cv2
import matplotlib.colors
import numpy as np
import pytest

from utils.labels import font_file
from utils.lincomb import build_lincomb_figure, lincomb_figure

BOX = (10, 20, 70, 90)


def parts(count, height=24, width=30, seed=0):
    """A picture of 120 x 100 pixels, prototypes and coefficients."""
    rng = np.random.RandomState(seed)
    image = rng.randint(0, 256, (120, 100, 3)).astype(np.uint8)
    return image, rng.rand(height, width, count).astype(np.float32), rng.uniform(-1, 1, count).astype(np.float32)


def window():
    return 20, 30, np.ones((50, 40), bool)


def cells(figure):
    """{text above a cell: the array in it}, in order; the colour bars apart."""
    return {axes.get_title(): np.asarray(axes.get_images()[0].get_array())
            for axes in figure.axes if axes.get_images()}


def bars(figure):
    return [axes.get_title() for axes in figure.axes if not axes.get_images()]


def test_every_step_from_prototypes_to_mask_is_there():
    image, protos, coeffs = parts(16)
    figure = build_lincomb_figure(image, protos, coeffs, window(), BOX, "cat 0.97")
    order = np.argsort(-np.abs(coeffs))
    expected, total = [], 0
    for rank, index in enumerate(order[:12]):
        product = protos[:, :, index] * coeffs[index]
        total = total + product
        sign = "+" if coeffs[index] > 0 else "−"
        expected += [(f"{sign}{abs(coeffs[index]):.2f} × prototype {index}", product), (f"sum of {rank + 1}", total)]
    rest = protos[:, :, order[12:]] @ coeffs[order[12:]]
    expected += [("the other 4 together", rest), ("sum of all 16", total + rest),
                 ("sigmoid", 1 / (1 + np.exp(-total - rest)))]
    shown = cells(figure)
    assert list(shown)[:len(expected)] == [head for head, _ in expected]
    for head, array in expected:
        np.testing.assert_allclose(shown[head], array, atol=1e-5, err_msg=head)
    assert list(shown)[len(expected):] == ["cut to the box", "over 0.5: the mask"]
    assert bars(figure) == ["products and sums", "after the sigmoid"]
    text = [text.get_text() for text in figure.texts]
    assert text[0] == "cat 0.97"
    assert "The first 12" in text[1] and "The other 4 add between" in text[1]
    assert text[1].endswith(f"{rest.min():+.2f} and {rest.max():+.2f}.".replace("-", "−"))


def test_few_prototypes_leave_nothing_out():
    figure = build_lincomb_figure(*parts(3), window(), BOX, "cat", crop=False)
    assert list(cells(figure))[6:] == ["sum of all 3", "sigmoid", "over 0.5: the mask"]
    assert figure.texts[1].get_text().startswith("All 3 prototypes")


def test_all_sums_have_one_scale_with_zero_in_the_middle():
    figure = build_lincomb_figure(*parts(16), window(), BOX, "cat")
    images = [axes.get_images()[0] for axes in figure.axes if axes.get_images()]
    assert {image.get_clim() for image in images[:26]} == {(-6.0, 6.0)}
    assert {image.get_clim() for image in images[26:28]} == {(0, 1)}
    below, middle, above = (images[0].get_cmap()(share)[:3] for share in (0.0, 0.5, 1.0))
    assert below[2] > below[0] + 0.2 and above[0] > above[2] + 0.2 and min(middle) > 0.9  # blue, white, red


def test_signs_are_told_apart_by_colour():
    image, protos, _ = parts(2)
    figure = build_lincomb_figure(image, protos, np.float32([0.5, -0.9]), window(), BOX, "cat")
    minus, _, plus = (axes.title for axes in figure.axes[:3])
    assert minus.get_text() == "−0.90 × prototype 1" and plus.get_text() == "+0.50 × prototype 0"
    # As the sums' colours have them: blue below zero, red above.
    red, _, blue, _ = matplotlib.colors.to_rgba(minus.get_color())
    assert blue > 2 * red
    red, _, blue, _ = matplotlib.colors.to_rgba(plus.get_color())
    assert red > 2 * blue


def test_the_cut_leaves_the_box_and_a_sample_around_it():
    image, protos, coeffs = parts(16)  # 4 x 5 pixels of the picture a sample, nearly
    shown = cells(build_lincomb_figure(image, protos, coeffs, window(), BOX, "cat"))
    cut, soft = shown["cut to the box"], shown["sigmoid"]
    assert np.array_equal(cut[3:19, 2:22], soft[3:19, 2:22])
    inside = np.zeros_like(cut, bool)
    inside[3:19, 2:22] = True
    assert not cut[~inside].any()


def test_the_mask_lies_over_the_picture():
    image, protos, coeffs = parts(4)
    image[:] = 0
    picture = cells(build_lincomb_figure(image, protos, coeffs, window(), BOX, "cat"))["over 0.5: the mask"]
    assert picture.shape == (120, 100, 3)
    assert picture[32:78, 22:58].any(axis=2).all()
    assert not picture[:28].any() and not picture[:, 62:].any()


@pytest.mark.parametrize("height, width", [(1, 1), (20, 600), (600, 20), (900, 1200)])
def test_any_picture_and_an_empty_mask_make_a_figure(tmp_path, height, width):
    _, protos, coeffs = parts(32)
    path = tmp_path / "new" / "lincomb.png"
    lincomb_figure(path, np.zeros((height, width, 3), np.uint8), protos, coeffs, (0, 0, np.zeros((0, 0), bool)),
                   (0, 0, width, height), r"a long title, $\no mathematics$ " * 20)
    written = cv2.imread(str(path))
    assert 500 < written.shape[0] < 2500 and 1500 < written.shape[1] < 2000
    assert (written[:, -15:] == 255).all()  # the title is made to fit
    assert list(path.parent.iterdir()) == [path]


def test_cells_do_not_cover_each_other():
    figure = build_lincomb_figure(*parts(32), window(), BOX, "cat")
    figure.canvas.draw()
    boxes = [axes.get_tightbbox() for axes in figure.axes]
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 and box.y0 >= 0 for box in boxes)
    for place, one in enumerate(boxes):
        assert not any(one.overlaps(other) for other in boxes[place + 1:])


def test_extreme_values_and_zeros_are_ordinary():
    image, protos, coeffs = parts(4)
    shown = cells(build_lincomb_figure(image, protos * 1e6, coeffs, window(), BOX, "cat"))
    assert set(np.unique(shown["sigmoid"].round(3))) <= {0.0, 1.0}
    shown = cells(build_lincomb_figure(image, protos * 0, coeffs, window(), BOX, "cat"))
    assert (shown["sigmoid"] == 0.5).all()


def test_a_chinese_title_is_written_if_a_font_can():
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        figure = build_lincomb_figure(*parts(2), window(), BOX, "猫 0.97")
        figure.canvas.draw()
    missing = [str(warning.message) for warning in told if "missing from" in str(warning.message)]
    assert bool(missing) == (font_file("猫") == font_file("c"))
    assert figure.texts[0].get_text() == "猫 0.97"
