"""The page of task 4: its bytes, and what a visitor sees and does in a real browser without a network."""

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

SELECTED = "table('label').selected.indices"
# Elements behind shadow roots, the places of points on the screen, and, once all is drawn, the models
HELPERS = r"""
window.deep = (selector, root = document) => [...root.querySelectorAll("*")].flatMap(element =>
  [...(element.matches(selector) ? [element] : []), ...(element.shadowRoot ? deep(selector, element.shadowRoot) : [])]);
window.numbers = text => text.match(/\d+([.,]\d+)*/g);
window.places = (panel, points) => {
  const {frame, el} = panels[panel], {left, top} = el.getBoundingClientRect();
  return points.map(([x, y]) => [left + frame.x_scale.compute(x), top + frame.y_scale.compute(y)]);
};
const poll = setInterval(() => {
  if (!window.Bokeh?.documents[0]?.is_idle || !deep(".bk-clearfix").some(words => words.innerText)) return;
  window.models = [...Bokeh.documents[0]._all_models.values()];
  window.table = column => models.find(({type, data}) => type == "ColumnDataSource" && data[column]);
  window.panels = models.filter(({type, title}) => type == "Figure" && title?.text)
    .map(each => Bokeh.index.find_one(each));
  clearInterval(poll), arguments[0]();
}, 20);"""


class Scene:
    """The page in the browser, and what it should hold: its images by their numbers, their labels and answers."""

    def __init__(self, browser, values):
        self.browser, self.values = browser, values
        answers = values["probabilities"].argmax(axis=1)
        others = np.setdiff1d(np.flatnonzero(answers != values["labels"]), values["shown"])
        self.numbers = np.concatenate([values["shown"], others])
        self.labels, self.answers = values["labels"][self.numbers], answers[self.numbers]
        self.wrong = self.labels != self.answers
        self.images = values["images"][self.numbers].astype(int)

    def ask(self, script, *arguments):
        """Return the value of an expression once everything is painted."""
        later = f"requestAnimationFrame(() => setTimeout(() => arguments[arguments.length - 1]({script}), 40))"
        return self.browser.execute_async_script(later, *arguments)

    def mouse(self, kind, place, **details):
        event = {"type": f"mouse{kind}", "x": round(place[0]), "y": round(place[1]), "clickCount": 1, **details}
        self.browser.execute_cdp_cmd("Input.dispatchMouseEvent", event)

    def drag(self, *corners):
        """Drag the mouse along corners; a single one is clicked."""
        self.mouse("Pressed", corners[0], button="left")
        for corner in corners[1:]:
            self.mouse("Moved", corner, button="left", buttons=1)
        self.mouse("Released", corners[-1], button="left")

    def press(self, *names):
        """Click buttons by their text and tools by their names."""
        found = "deep('.bk-btn, [title]').find(each => [each.textContent, each.title].includes(arguments[0]))"
        for name in names:
            self.ask(found, name).click()

    def places(self, panel):
        """Return where the digits of the page should stand on the screen [M, 2]."""
        points = self.values["spaces"][panel].points[self.numbers]
        return np.array(self.ask("places(...arguments)", panel, points.tolist()))

    def box(self, panel):
        """Drag a box over the middle of a panel; return which digits it holds [M]."""
        self.press("Box Select")
        corners = self.places(panel).mean(axis=0).round() + np.array([(-61, -40), (61, -40), (61, 40), (-61, 40)])
        self.drag(corners[0], corners[2])
        return Polygon(corners).contains_points(self.places(panel))

    def pixels(self):
        self.ask("0")  # waits
        with Image.open(io.BytesIO(self.browser.get_screenshot_as_png())) as image:
            return np.asarray(image.convert("RGB")).astype(int)

    def summary(self):
        """Return the numbers in the words, the mean image, and the bars' lengths, texts and dark parts."""
        words = "numbers(deep('.bk-clearfix')[0].innerText)"
        words, mean, bars = self.ask(f"[{words}, [...table('image').data.image[0]], table('share').data]")
        return words, np.reshape(mean, (28, 28)), bars["share"], bars["text"], bars["wrong"]


def sample(count):
    """Return images, none of a 6, on a grid that differs between spaces, all at one place in the last."""
    data, rng = load_data(train=False), np.random.default_rng(0)
    kept = np.flatnonzero(data.labels != 6)[:count]
    labels, probabilities = data.labels[kept], rng.dirichlet(np.ones(10), count)
    probabilities[np.arange(count), np.where(np.arange(count) % 6, labels, (labels + 1) % 10)] += 1
    values = {"images": data.images[kept], "labels": labels, "probabilities": probabilities / 2}
    grid = np.stack(np.divmod(np.arange(count), -(-count // 12)), axis=1) * (1.6, 1.0)
    points = [*(grid[rng.permutation(count)] for _ in range(4)), np.zeros((count, 2))]
    spaces = [Space(f"{k} </script>", each, [k, 8], (0.25, k / 8)) for k, each in enumerate(points)]
    return values | {"spaces": spaces, "title": "</script> & <b>7</b>", "shown": rng.permutation(count)[: count // 2]}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page; at the end, the browser must not have complained or asked for another file."""
    if not (driver := shutil.which("chromedriver")) or not find_spec("selenium"):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("Selenium, Chromium and chromedriver are needed")
    from selenium import webdriver

    path, values, options = tmp_path_factory.mktemp("page") / "page.html", sample(180), webdriver.ChromeOptions()
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"):
        options.add_argument(flag)
    save_page(path, **values)
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as browser:
        browser.get(path.as_uri())
        browser.execute_async_script(HELPERS)
        yield (scene := Scene(browser, values))
        assert browser.get_log("browser") == []
        loaded = scene.ask("performance.getEntriesByType('resource').map(each => each.name)")
        assert [url for url in loaded if not url.startswith(("data:", "blob:"))] == []


@pytest.fixture
def scene(page, request):
    """The page as it is when it is opened, in a window of a given size."""
    size = dict(zip(("width", "height"), getattr(request, "param", (1366, 768)), strict=True))
    page.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"deviceScaleFactor": 1, "mobile": False} | size)
    page.ask("[models.find(({type}) => type == 'Toggle').active = false, table('label').selected.indices = []]")
    page.press("all", "Reset", "Lasso Select")
    page.mouse("Moved", (0, 0))
    return page


def test_same_input_gives_the_same_bytes_of_at_most_five_megabytes_for_3300_digits(tmp_path):
    paths, values = [tmp_path / name for name in "ab"], sample(3300) | {"shown": np.arange(3300)}
    for path in paths:
        save_page(path, **values)
    [content] = {path.read_bytes() for path in paths}
    assert len(content) <= 5e6


def test_page_says_how_many_dots_and_errors_there_are_and_which_components_its_axes_show(scene):
    assert scene.ask("document.querySelector('h1').textContent") == scene.values["title"]
    assert {str(len(scene.numbers)), "30", "16.67"} <= set(scene.ask("numbers(document.querySelector('p').innerText)"))
    axes = "panels.map(({model}) => [model.below[0], model.left[0]].map(axis => numbers(axis.axis_label)))"
    assert scene.ask(axes) == [[[str(k), "25.0"], ["8", f"{12.5 * k:.1f}"]] for k in range(5)]


def test_panels_draw_their_digits_in_the_colour_of_their_class_and_errors_with_a_dark_rim(scene):
    pixels, colours = scene.pixels(), np.array([list(bytes.fromhex(colour[1:])) for colour in CLASS_COLOURS])
    expected = 0.85 * colours[scene.labels] + 0.15 * 255  # the opacity of the dots
    for panel in range(4):
        x, y = scene.places(panel).round().astype(int).T
        assert np.abs(pixels[y, x] - expected).max() < 6  # the lines of the grid shine through
        rim = np.min([pixels[y, x + step].sum(axis=1) - expected.sum(axis=1) for step in (-3, -2, 2, 3)], axis=0)
        assert rim[scene.wrong].max() < rim[~scene.wrong].min() - 60


def test_pointing_shows_image_and_answer_of_the_uppermost_dot_and_marks_it_in_every_panel(scene):
    before, number, tooltip = scene.pixels(), scene.numbers[-1], "deep('.bk-tooltip-content > div > div').at(-1)"
    scene.mouse("Moved", scene.places(4)[0])
    sure = f"{100 * scene.values['probabilities'][number].max():.1f}"
    expected = [str(each) for each in (scene.labels[-1], scene.answers[-1], sure, number)]
    assert scene.ask("numbers(deep('.bk-tooltip-content')[0].innerText)") == expected
    corner, after = scene.ask(f"{tooltip}.querySelector('div > div').getBoundingClientRect()"), scene.pixels()
    left, top = round(corner["left"]), round(corner["top"])
    wanted = 255 - scene.images[-1].repeat(4, axis=0).repeat(4, axis=1)[..., None]
    assert np.abs(after[top : top + 112, left : left + 112] - wanted).max() <= 13  # 5 % of the panel shine through
    for panel in range(4):
        x, y = scene.places(panel)[-1].round().astype(int)
        assert after[y, [x - 7, x + 7]].max() < 60
    scene.mouse("Moved", (0, 0))
    assert (scene.pixels() == before).all()


def test_box_selects_its_digits_in_all_panels_and_sums_up_all_images_behind_them(scene):
    chosen = scene.box(3)
    assert scene.ask(SELECTED) == np.flatnonzero(chosen).tolist()
    scene.mouse("Moved", (0, 0))
    pixels = scene.pixels()
    for panel in range(4):
        x, y = scene.places(panel).round().astype(int).T
        strength = np.abs(pixels[y, x] - 255).sum(axis=1)
        assert strength[chosen].min() > strength[~chosen].max() > 0  # the others fade
    words, mean, share, text, wrong = scene.summary()
    assert words[:2] == [str(chosen.sum()), str(scene.wrong[chosen].sum())]
    np.testing.assert_allclose(mean, scene.images[chosen].mean(axis=0))
    right = np.bincount(scene.values["labels"][np.arange(180) % 6 > 0], minlength=10)  # every sixth answer is wrong
    sampled = np.bincount(scene.labels[~scene.wrong], minlength=10)
    weights = np.where(scene.wrong, 1, (right / np.maximum(sampled, 1))[scene.labels])
    images = np.bincount(scene.labels[chosen], weights[chosen], minlength=10)
    errors = np.bincount(scene.labels[chosen & scene.wrong], minlength=10)
    np.testing.assert_allclose(share, images / images.max(), rtol=1e-6)
    np.testing.assert_allclose(wrong, errors / images.max(), rtol=1e-6)
    np.testing.assert_allclose(np.array(text, float), images, atol=0.501)


def test_lasso_selects_the_digits_inside_it_until_escape_or_a_click_beside_the_dots(scene):
    places = scene.places(1)
    corners = places.mean(axis=0).round() + np.array([(-80, -60), (90, -20), (60, 55), (0, 0), (-70, 50)])
    gap = [np.unique(numbers.round(2))[3:5].mean() for numbers in places.T]
    for clear in (lambda: scene.browser.switch_to.active_element.send_keys("\ue00c"), lambda: scene.drag(gap)):
        scene.drag(*corners)
        assert scene.ask(SELECTED) == np.flatnonzero(Polygon(corners).contains_points(places)).tolist() != []
        clear()
        assert scene.ask(SELECTED) == []
        assert scene.summary()[0][0] == str(len(scene.numbers))


def test_click_selects_the_uppermost_digit_and_shows_its_probabilities(scene):
    scene.drag(scene.places(4)[0])
    assert scene.ask(SELECTED) == [len(scene.numbers) - 1]
    words, mean, share, text, wrong = scene.summary()
    assert words == [str(each[-1]) for each in (scene.numbers, scene.labels, scene.answers)]
    np.testing.assert_array_equal(mean, scene.images[-1])
    np.testing.assert_allclose(share, scene.values["probabilities"][scene.numbers[-1]], rtol=1e-6)
    assert text == [f"{100 * each:.1f}%" for each in share]
    assert not any(wrong)
    scene.mouse("Moved", (0, 0))
    x, y = scene.places(0)[-1].round().astype(int)
    assert scene.pixels()[y, [x - 7, x + 7]].max() < 60  # its ring stays


def test_buttons_show_their_classes_or_only_errors_move_no_axis_and_deselect_what_they_hide(scene):
    chosen, places, shown = scene.box(0), scene.places(1), "[...panels[1].model.renderers[1].view.indices]"
    scene.press("only errors")
    assert scene.ask(shown) == np.flatnonzero(scene.wrong).tolist()
    assert scene.ask(SELECTED) == np.flatnonzero(scene.wrong & chosen).tolist()
    scene.press("only errors", "none")
    for number in range(10):
        scene.press(str(number))
        assert scene.ask(shown) == np.flatnonzero(scene.labels <= number).tolist()
        np.testing.assert_array_equal(scene.places(1), places)
        assert scene.summary()[0][0] == str((scene.labels <= number).sum())


def test_wheel_zooms_one_panel_until_reset(scene):
    widths = "panels.map(({model}) => model.x_range.end - model.x_range.start)"
    before = np.array(scene.ask(widths))
    scene.mouse("Wheel", scene.places(2).mean(axis=0), deltaX=0, deltaY=-300)
    assert (scene.ask(widths) < before).tolist() == [False, False, True, False, False]
    scene.press("Reset")
    np.testing.assert_allclose(scene.ask(widths), before)


@pytest.mark.parametrize("scene", [(1366, 768), (1920, 1080), (1024, 768)], indirect=True)
def test_nothing_overlaps_or_leaves_the_window(scene):
    script = "deep('h1, p, .bk-Figure, .bk-Toolbar, .bk-btn, .bk-Div').map(each => each.getBoundingClientRect())"
    boxes = np.array([[box[side] for side in ("left", "top", "right", "bottom")] for box in scene.ask(script)])
    boxes = boxes[(boxes[:, 2:] > boxes[:, :2]).all(axis=1)]
    assert len(boxes) == 2 + 7 + 1 + 13 + 1
    overlap = np.minimum(boxes[:, None, 2:], boxes[:, 2:]) - np.maximum(boxes[:, None, :2], boxes[:, :2])
    assert (overlap.min(axis=2)[~np.eye(len(boxes), dtype=bool)] <= 1).all()  # buttons share a border
    assert boxes.min() >= 0
    assert (boxes[:, 2:] <= scene.ask("[innerWidth, innerHeight]")).all()
    assert np.min(scene.ask("panels.map(({frame}) => [frame.bbox.width, frame.bbox.height])")) >= 200
    assert scene.ask("deep('.bk-clearfix')[0].scrollHeight <= deep('.bk-Div')[0].clientHeight")
