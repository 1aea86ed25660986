"""The page of task 4: its bytes, and what a visitor sees and does in a real browser
without a network.
"""

import io
import os
import shutil
from importlib.util import find_spec

import numpy as np
import pytest
from matplotlib.path import Path as Polygon
from PIL import Image

from common.data import load_data
from common.explorer import Space, save_page
from common.plotting import CLASS_COLOURS

SELECTED, SAID = (
    "table('label').selected.indices",
    "numbers(document.querySelector('[aria-live=polite]').textContent)",
)
PRESSED = "deep('[aria-pressed=true]').map(each => each.textContent)"
COLOURS = np.array([list(bytes.fromhex(colour[1:])) for colour in CLASS_COLOURS])
# Elements behind shadow roots, the places of points on the screen, a count of circles,
# and, once all is drawn, models
HELPERS = r"""
window.deep = (selector, root = document) =>
  [...root.querySelectorAll("*")].flatMap(element => [
    ...(element.matches(selector) ? [element] : []),
    ...(element.shadowRoot ? deep(selector, element.shadowRoot) : [])]);
window.numbers = text => text.match(/\d+([.,]\d+)*/g);
window.places = (panel, points) => {
  const {frame, el} = panels[panel], {left, top} = el.getBoundingClientRect();
  return points.map(
    ([x, y]) => [left + frame.x_scale.compute(x), top + frame.y_scale.compute(y)]);
};
const context = CanvasRenderingContext2D.prototype, {arc} = context;
context.arc = function(...values) { window.circles++; arc.apply(this, values); };
const poll = setInterval(() => {
  if (!window.Bokeh?.documents[0]?.is_idle) return;
  if (!numbers(document.getElementById("said").textContent)) return;
  window.models = [...Bokeh.documents[0]._all_models.values()];
  window.table = column => models.find(
    ({type, data}) => type == "ColumnDataSource" && data[column]);
  window.panels = models.filter(({type}) => type == "Figure").slice(0, 5).map(
    each => Bokeh.index.find_one(each));
  clearInterval(poll), arguments[0]();
}, 20);"""


class Scene:
    """The page in the browser, and what it should hold: its images by their numbers,
    their labels and answers.
    """

    def __init__(self, browser, values):
        self.browser, self.values = browser, values
        answers = values["probabilities"].argmax(axis=1)
        self.numbers = np.union1d(
            values["shown"], np.flatnonzero(answers != values["labels"])
        )
        self.labels, self.answers = (
            values["labels"][self.numbers],
            answers[self.numbers],
        )
        self.wrong, self.images = (
            self.labels != self.answers,
            values["images"][self.numbers].astype(int),
        )

    def ask(self, script, *arguments):  # once everything is painted
        later = (
            "requestAnimationFrame(() => setTimeout(() => "
            f"arguments[arguments.length - 1]({script}), 40))"
        )
        return self.browser.execute_async_script(later, *arguments)

    def mouse(self, kind, place, **details):
        event = {
            "type": f"mouse{kind}",
            "x": round(place[0]),
            "y": round(place[1]),
            "clickCount": 1,
            **details,
        }
        self.browser.execute_cdp_cmd("Input.dispatchMouseEvent", event)

    def drag(self, *corners):
        """Drag the mouse along corners; a single one is clicked."""
        kinds = ["Pressed", *["Moved"] * len(corners), "Released"]
        for kind, place in zip(kinds, [corners[0], *corners, corners[-1]], strict=True):
            self.mouse(kind, place, button="left", buttons=1)

    def press(self, *names, key="\ue007"):
        """Focus buttons by their text and press a key, that of Enter by default."""
        for name in names:
            self.ask(
                "deep('.bk-btn').find(each => each.textContent == arguments[0])", name
            ).send_keys(key)

    def places(self, panel):
        """Return where the digits of the page should stand on the screen [M, 2]."""
        points = self.values["spaces"][panel].points[self.numbers]
        return np.array(self.ask("places(...arguments)", panel, points.tolist()))

    def around(self, panel, pixels, *steps):
        """Return the colours at the left and right of the digits [steps, M, 3]."""
        x, y = self.places(panel).round().astype(int).T
        return np.stack([pixels[y, x + step] for step in steps])

    def pixels(self):
        self.ask("0")  # waits
        return np.asarray(
            Image.open(io.BytesIO(self.browser.get_screenshot_as_png())).convert("RGB")
        ).astype(int)

    def summary(self):
        """Return the numbers in the words, the mean image, and the bars' lengths, texts
        and dark parts.
        """
        words, mean, bars = self.ask(
            f"[{SAID}, [...table('image').data.image[0]], table('share').data]"
        )
        return (
            words,
            np.reshape(mean, (28, 28)),
            bars["share"],
            bars["text"],
            bars["wrong"],
        )


def sample(count):
    """Return images, none of a 6, on a grid: in random orders, by class, and all at one
    place in the last space.
    """
    data, rng = load_data(train=False), np.random.default_rng(0)
    kept = np.flatnonzero(data.labels != 6)[:count]
    labels, probabilities = data.labels[kept], rng.dirichlet(np.ones(10), count)
    probabilities[
        np.arange(count), np.where(np.arange(count) % 6, labels, (labels + 1) % 10)
    ] += 1
    values = {
        "images": data.images[kept],
        "labels": labels,
        "probabilities": probabilities / 2,
    }
    grid = np.stack(np.divmod(np.arange(count), -(-count // 12)), axis=1) * (1.6, 1.0)
    points = [
        *(grid[rng.permutation(count)] for _ in range(3)),
        grid[np.argsort(np.argsort(labels))],
        0 * grid,
    ]
    spaces = [
        Space(f"{k} </script>", each, [k, 8], (0.25, k / 8))
        for k, each in enumerate(points)
    ]
    return values | {
        "spaces": spaces,
        "title": "</script> & <b>7</b>",
        "shown": rng.permutation(count)[: count // 2],
    }


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page; at the end, the browser must not have complained or asked for another
    file.
    """
    if not (driver := shutil.which("chromedriver")) or not find_spec("selenium"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)(
            "Selenium, Chromium and chromedriver are needed"
        )
    from selenium import webdriver

    path, values, options = (
        tmp_path_factory.mktemp("page") / "page.html",
        sample(180),
        webdriver.ChromeOptions(),
    )
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--host-resolver-rules=MAP * ~NOTFOUND",
    ):
        options.add_argument(flag)
    save_page(path, **values)
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as browser:
        browser.get(path.as_uri())
        browser.execute_async_script(HELPERS)
        yield Scene(browser, values)
        assert browser.get_log("browser") == []


@pytest.fixture
def scene(page, request):
    """The page as it is when it is opened, in a window of a given size."""
    size = dict(
        zip(("width", "height"), getattr(request, "param", (1366, 768)), strict=True)
    )
    page.browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"deviceScaleFactor": 1, "mobile": False} | size,
    )
    page.ask(
        "[models.find(({type}) => type == 'Toggle').active = false, "
        "table('label').selected.indices = []]"
    )
    page.press("all", "reset view")
    page.mouse("Moved", (0, 0))
    return page


def test_same_input_gives_the_same_bytes_of_at_most_five_megabytes_for_3300_digits(
    tmp_path,
):
    for name in "ab":
        save_page(tmp_path / name, **sample(3300) | {"shown": np.arange(3300)})
    [content] = {(tmp_path / name).read_bytes() for name in "ab"}
    assert len(content) <= 5e6


def test_page_says_how_many_dots_and_errors_there_are_and_names_its_axes_and_figures(
    scene,
):
    assert (
        scene.ask("document.querySelector('h1').textContent") == scene.values["title"]
    )
    assert {str(len(scene.numbers)), "30", "16.67"} <= set(
        scene.ask("numbers(document.querySelector('p').innerText)")
    )
    axes = (
        "panels.map(({model}) => "
        "[model.below[0], model.left[0]].map(axis => axis.axis_label))"
    )
    assert scene.ask(axes) == [
        [f"PC {k} · 25.0 %", f"PC 8 · {12.5 * k:.1f} %"] for k in range(5)
    ]
    assert scene.ask("deep('[role=img]').map(each => each.ariaLabel)")[:5] == [
        f"{k} </script>" for k in range(5)
    ]


def test_panels_draw_digits_in_class_colours_rims_around_errors_numbers_at_medians(
    scene,
):
    pixels, labels, points = (
        scene.pixels(),
        scene.values["labels"],
        scene.values["spaces"][3].points,
    )
    for panel in range(4):
        expected = 0.85 * COLOURS[scene.labels] + 0.15 * 255  # the opacity of the dots
        assert (
            np.mean(
                np.abs(scene.around(panel, pixels, 0)[0] - expected).max(axis=1) < 6
            )
            > 0.8
        )  # numbers hide some
        rim = (
            (scene.around(panel, pixels, -3, -2, 2, 3) - expected)
            .sum(axis=2)
            .min(axis=0)
        )
        assert (
            np.median(rim[scene.wrong]) < np.quantile(rim[~scene.wrong], 0.2) - 20
        )  # its grey is a colour's, too
    medians = [
        np.median(points[labels == k], axis=0).tolist() for k in np.unique(labels)
    ]
    x, y = np.round(scene.ask("places(3, arguments[0])", medians)).astype(int).T
    chips = np.median([pixels[y + step, x - 4] for step in (-3, 0, 3)], axis=0)
    assert np.abs(chips - COLOURS[np.unique(labels)]).max() < 25  # letters touch it


def test_pointing_shows_the_uppermost_image_and_draws_rings_in_every_panel_but_no_dots(
    scene,
):
    before, number = scene.pixels(), scene.numbers[-1]
    scene.ask("window.circles = 0")
    scene.mouse("Moved", scene.places(4)[0])
    sure = f"{100 * scene.values['probabilities'][number].max():.1f}"
    expected = [
        str(each) for each in (scene.labels[-1], scene.answers[-1], sure, number)
    ]
    assert scene.ask(
        "[circles, ...numbers(deep('.bk-tooltip-content')[0].innerText)]"
    ) == [5, *expected]
    corner = scene.ask(
        "deep('.bk-tooltip-content > div > div').at(-1)"
        ".querySelector('div').getBoundingClientRect()"
    )
    after, left, top = scene.pixels(), round(corner["left"]), round(corner["top"])
    wanted = 255 - scene.images[-1].repeat(2, axis=0).repeat(2, axis=1)[..., None]
    assert np.abs(after[top : top + 56, left : left + 56] - wanted).max() <= 1
    assert all(
        scene.around(panel, after, -7, 7)[:, -1].max() < 60 for panel in range(4)
    )
    scene.mouse("Moved", (0, 0))
    assert (scene.pixels() == before).all()


def test_lasso_selects_its_digits_and_sums_up_all_images_behind_them(scene):
    places = scene.places(0)
    corners = places.mean(axis=0).round() + np.array(
        [(-80, -60), (90, -20), (60, 55), (0, 0), (-70, 50)]
    )
    scene.drag(*corners)
    chosen = Polygon(corners).contains_points(places)
    assert scene.ask(SELECTED) == np.flatnonzero(chosen).tolist()
    right = np.bincount(
        scene.values["labels"][np.arange(180) % 6 > 0], minlength=10
    )  # every sixth answer is wrong
    sampled = np.bincount(scene.labels[~scene.wrong], minlength=10)
    weights = np.where(scene.wrong, 1, (right / np.maximum(sampled, 1))[scene.labels])[
        chosen
    ]
    images = np.bincount(scene.labels[chosen], weights, minlength=10)
    words, mean, share, text, wrong = scene.summary()
    assert words == [
        str(chosen.sum()),
        f"{images.sum():.0f}",
        str(scene.wrong[chosen].sum()),
    ]
    np.testing.assert_allclose(
        mean, np.average(scene.images[chosen], axis=0, weights=weights), rtol=1e-5
    )
    errors = np.bincount(scene.labels[chosen & scene.wrong], minlength=10)
    np.testing.assert_allclose([share, wrong], [images, errors], rtol=1e-6)
    np.testing.assert_allclose(np.array(text, float), images, atol=0.501)


def test_click_selects_the_uppermost_digit_until_escape_or_a_click_beside_the_dots(
    scene,
):
    for clear in (
        lambda: scene.press("all", key="\ue00c"),
        lambda: scene.drag(scene.places(1).min(axis=0) - 10),
    ):
        scene.drag(scene.places(4)[0])
        assert scene.ask(SELECTED) == [len(scene.numbers) - 1]
        scene.mouse("Moved", (0, 0))
        assert (
            scene.around(0, scene.pixels(), -7, 7)[:, -1].max() < 60
        )  # its ring stays
        clear()
        assert scene.ask(SELECTED) == []


def test_keyboard_steps_through_the_errors_a_live_line_names_each_bars_show_its_shares(
    scene,
):
    errors = np.flatnonzero(scene.wrong)
    for name, order in (
        ("next error", [*errors, errors[0]]),
        ("previous error", [*errors[::-1], errors[-1]]),
    ):
        for k in order:
            scene.press(name)
            assert scene.ask(SELECTED) == [k]
            assert scene.ask(SAID)[:3] == [
                str(each[k]) for each in (scene.numbers, scene.labels, scene.answers)
            ]
    words, mean, share, text, wrong = scene.summary()
    np.testing.assert_array_equal(mean, scene.images[k])
    np.testing.assert_allclose(
        share, scene.values["probabilities"][scene.numbers[k]], rtol=1e-6
    )
    expected = [f"{100 * each:.1f} %" for each in share]
    assert (text, words[3] + " %", any(wrong)) == (
        expected,
        expected[scene.answers[k]],
        False,
    )


def test_buttons_show_their_classes_move_no_axis_and_say_that_they_are_pressed(scene):
    shown, named = (f"[...panels[1].model.renderers[{k}].view.indices]" for k in (1, 3))
    places = scene.places(1)
    scene.press("none")
    for k in range(10):
        scene.press(str(k))
        assert scene.ask(f"[{PRESSED}, {named}]") == [
            [*"0123456789"[: k + 1]],
            [*range(k + 1)],
        ]
        kept = scene.labels <= k
        assert scene.ask(f"[{shown}, {SAID}[0]]") == [
            np.flatnonzero(kept).tolist(),
            str(kept.sum()),
        ]
        np.testing.assert_array_equal(scene.places(1), places)


def test_only_errors_deselects_the_others_and_shows_the_answers_as_rims_and_bars(
    scene,
):
    scene.ask(f"{SELECTED} = [...arguments[0]]", [0, *range(20, 40)])
    scene.press("only errors")
    assert scene.ask(PRESSED) == [*"0123456789", "only errors"]
    assert scene.ask(SELECTED) == [k for k in (0, *range(20, 40)) if scene.wrong[k]]
    scene.press("all", key="\ue00c")
    pixels, answers = scene.pixels(), scene.answers[scene.wrong]
    for panel in range(4):
        rims = scene.around(panel, pixels, -3, 3).mean(axis=0)[
            scene.wrong
        ]  # [errors, 3]
        nearest = np.abs(rims[:, None] - COLOURS).sum(axis=2).argmin(axis=1)
        assert np.mean(nearest == answers) > 0.8  # numbers hide some
    assert scene.summary()[2::2] == (
        np.bincount(answers, minlength=10).tolist(),
        [0] * 10,
    )


def test_wheel_zooms_until_the_view_is_reset(scene):
    before = scene.places(2)
    scene.mouse("Wheel", before.mean(axis=0), deltaX=0, deltaY=-300)
    assert (np.ptp(scene.places(2), axis=0) > 1.1 * np.ptp(before, axis=0)).all()
    scene.press("reset view")
    np.testing.assert_allclose(scene.places(2), before)


@pytest.mark.parametrize(
    "scene",
    [(1366, 768), (1920, 1080), (1024, 768), (683, 384), (390, 844)],
    indirect=True,
)
def test_nothing_overlaps_or_leaves_the_window_and_a_narrow_one_has_one_column(scene):
    script = (
        "deep('h1, p, .bk-Figure, .bk-Toolbar, .bk-btn')"
        ".map(each => each.getBoundingClientRect())"
    )
    boxes = np.array(
        [
            [box[side] for side in ("left", "top", "right", "bottom")]
            for box in scene.ask(script)
        ]
    )
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]
    assert len(boxes) == 3 + 7 + 1 + 16
    overlap = np.minimum(boxes[:, None, 2:], boxes[:, 2:]) - np.maximum(
        boxes[:, None, :2], boxes[:, :2]
    )
    assert (
        overlap.min(axis=2)[~np.eye(len(boxes), dtype=bool)] <= 1
    ).all()  # buttons share a border
    width, height = scene.ask("[document.documentElement.clientWidth, innerHeight]")
    assert (
        (boxes >= 0) & (boxes <= (width, height if width > 700 else np.inf) * 2)
    ).all()
    assert len(
        set(scene.ask("panels.map(({el}) => el.getBoundingClientRect().left)"))
    ) == (3 if width > 700 else 1)
    assert (
        np.min(
            scene.ask("panels.map(({frame}) => [frame.bbox.width, frame.bbox.height])")
        )
        >= 200
    )
