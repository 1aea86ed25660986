"""The page of task 4: what a visitor sees and does in a browser without a network."""

import io
import os
import shutil
from importlib.util import find_spec

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.path import Path as Polygon
from PIL import Image

from common.data import load_data
from common.explorer import Space, save_page
from common.plotting import CLASS_COLOURS

COUNT = 180
CLASSES = [0, 1, 2, 3, 4, 5, 7, 8, 9]
SELECTED = "table('label').selected.indices"
SAID = "numbers(document.querySelector('[aria-live=polite]').textContent)"
PRESSED = "deep('[aria-pressed=true]').map(each => each.textContent)"
COLOURS = 255 * np.array([to_rgb(colour) for colour in CLASS_COLOURS])
ENTER = "\ue007"
ESCAPE = "\ue00c"
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--host-resolver-rules=MAP * ~NOTFOUND",
]
# Elements behind shadow roots, numbers in a text, places of points and corners of
# elements on the screen, and, once all is drawn, models
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
window.corners = elements => elements.map(each => {
  const {left, top, right, bottom} = each.getBoundingClientRect();
  return [left, top, right, bottom];
});
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
    """The page in the browser, and the digits that it should hold."""

    def __init__(self, browser, values):
        self.browser = browser
        self.values = values
        answers = values["probabilities"].argmax(axis=1)
        errors = np.flatnonzero(answers != values["labels"])
        self.numbers = np.union1d(values["shown"], errors)
        self.labels = values["labels"][self.numbers]
        self.answers = answers[self.numbers]
        self.wrong = self.labels != self.answers
        self.images = values["images"][self.numbers].astype(int)

    def ask(self, script, *arguments):
        """Evaluate JavaScript once everything is painted."""
        later = (
            "requestAnimationFrame(() => setTimeout(() => "
            f"arguments[arguments.length - 1]({script}), 40))"
        )
        return self.browser.execute_async_script(later, *arguments)

    def resize(self, width, height):
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        command = "Emulation.setDeviceMetricsOverride"
        self.browser.execute_cdp_cmd(command, size | {"mobile": False})

    def mouse(self, kind, place, buttons=0):
        x, y = np.round(place).tolist()
        event = {"type": f"mouse{kind}", "x": x, "y": y, "buttons": buttons}
        event |= {"button": "left", "clickCount": 1}
        self.browser.execute_cdp_cmd("Input.dispatchMouseEvent", event)

    def drag(self, corners):
        """Drag the mouse along corners; a single one is clicked."""
        self.mouse("Pressed", corners[0], buttons=1)
        for corner in corners:
            self.mouse("Moved", corner, buttons=1)
        self.mouse("Released", corners[-1], buttons=1)

    def press(self, name, key=ENTER):
        """Focus the button with this text and press a key."""
        button = "deep('.bk-btn').find(each => each.textContent == arguments[0])"
        self.ask(button, name).send_keys(key)

    def places(self, panel):
        """Return where the digits of the page should stand on the screen [M, 2]."""
        points = self.values["spaces"][panel].points[self.numbers]
        return np.array(self.ask("places(...arguments)", panel, points.tolist()))

    def pixels(self):
        self.ask("0")  # waits
        image = Image.open(io.BytesIO(self.browser.get_screenshot_as_png()))
        return np.asarray(image.convert("RGB")).astype(int)

    def around(self, panel, pixels, steps):
        """Return the colours so many pixels right of the digits [steps, M, 3]."""
        x, y = self.places(panel).round().astype(int).T
        return pixels[y, x + np.array(steps)[:, None]]

    def summary(self):
        """Return the numbers in the words, the mean image and the bars."""
        image = "[...table('image').data.image[0]]"
        words, mean, bars = self.ask(f"[{SAID}, {image}, table('share').data]")
        return words, np.reshape(mean, (28, 28)), bars


def sample():
    """Return images, none of a 6, on a grid: in random orders, by class, and all at one
    place in the last space. Every sixth is wrong.
    """
    data = load_data(train=False)
    rng = np.random.default_rng(0)
    kept = np.flatnonzero(data.labels != 6)[:COUNT]
    labels = data.labels[kept]
    answers = np.where(np.arange(COUNT) % 6, labels, (labels + 1) % 10)
    probabilities = (rng.dirichlet(np.ones(10), COUNT) + np.eye(10)[answers]) / 2
    grid = np.stack(np.divmod(np.arange(COUNT), 15), axis=1) * (1.6, 1.0)
    points = [rng.permutation(grid) for _ in range(3)]
    points += [grid[labels.argsort().argsort()], 0 * grid]
    spaces = []
    for k, each in enumerate(points):
        spaces.append(Space(f"{k} </script>", each, [k, 8], (0.25, k / 8)))
    return {
        "images": data.images[kept],
        "labels": labels,
        "probabilities": probabilities,
        "spaces": spaces,
        "title": "</script> & <b>7</b>",
        "shown": rng.permutation(COUNT)[: COUNT // 2],
    }


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page; at the end, the browser must not have complained or asked for another
    file.
    """
    driver = shutil.which("chromedriver")
    if not driver or not find_spec("selenium"):
        refuse = pytest.fail if os.environ.get("CI") else pytest.skip
        refuse("Selenium, Chromium and chromedriver are needed")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in FLAGS:
        options.add_argument(flag)
    path = tmp_path_factory.mktemp("page") / "page.html"
    values = sample()
    save_page(path, **values)
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as browser:
        browser.get(path.as_uri())
        browser.execute_async_script(HELPERS)
        yield Scene(browser, values)
        assert browser.get_log("browser") == []


@pytest.fixture
def scene(page):
    """The page as it is when it is opened."""
    page.resize(1366, 768)
    page.ask("models.find(({type}) => type == 'Toggle').active = false")
    page.ask(f"{SELECTED} = []")
    page.press("all")
    page.press("reset view")
    page.mouse("Moved", (0, 0))
    return page


def test_the_page_says_how_many_dots_and_errors_there_are_and_names_what_it_shows(
    scene,
):
    title = scene.ask("document.querySelector('h1').textContent")
    assert title == scene.values["title"]
    words = scene.ask("numbers(document.querySelector('p').innerText)")
    assert {str(len(scene.numbers)), "30", "16.67"} <= set(words)
    named = scene.ask("deep('[role=img]').map(each => each.ariaLabel)")
    assert named[:5] == [space.name for space in scene.values["spaces"]]


def test_panels_draw_digits_in_class_colours_and_numbers_at_medians(
    scene,
):
    pixels = scene.pixels()
    expected = 0.85 * COLOURS[scene.labels] + 0.15 * 255  # the opacity of the dots
    for panel in range(4):
        difference = np.abs(scene.around(panel, pixels, [0])[0] - expected)
        assert np.mean(difference.max(axis=1) < 6) > 0.8  # numbers hide some
    medians = scene.ask("panels[3].model.renderers[3].data_source.data")
    for number in CLASSES:
        members = scene.values["spaces"][3].points[scene.values["labels"] == number]
        found = medians["x"][number], medians["y"][number]
        np.testing.assert_allclose(found, np.median(members, axis=0))


def test_pointing_shows_the_uppermost_image_and_its_rings_and_a_click_selects_it(
    scene,
):
    scene.mouse("Moved", scene.places(4)[0])
    said = scene.ask("numbers(deep('.bk-tooltip-content')[0].innerText)")
    number = scene.numbers[-1]
    sure = 100 * scene.values["probabilities"][number].max()
    expected = [scene.labels[-1], scene.answers[-1], round(sure, 1), number]
    assert [float(word) for word in said] == expected
    picture = "deep('.bk-tooltip-content > div > div').at(-1).querySelector('div')"
    left, top, _, _ = np.round(scene.ask(f"corners([{picture}])[0]")).astype(int)
    after = scene.pixels()
    wanted = 255 - scene.images[-1].repeat(2, axis=0).repeat(2, axis=1)[..., None]
    assert np.abs(after[top : top + 56, left : left + 56] - wanted).max() <= 1
    for panel in range(4):
        assert scene.around(panel, after, [-7, 7])[:, -1].max() < 60

    scene.drag(scene.places(4)[:1])
    assert scene.ask(SELECTED) == [len(scene.numbers) - 1]
    scene.press("all", ESCAPE)
    assert scene.ask(SELECTED) == []


def test_the_dots_stand_for_all_images_and_a_lasso_selects_its_own(scene):
    labels = scene.values["labels"]
    words, _, bars = scene.summary()
    assert words == [str(len(scene.numbers)), str(COUNT), "30"]
    images = np.bincount(labels, minlength=10)
    np.testing.assert_allclose(bars["share"], images, rtol=1e-6)
    assert bars["text"] == [str(count) for count in images]
    errors = np.bincount(scene.labels[scene.wrong], minlength=10)
    assert bars["wrong"] == errors.tolist()

    places = scene.places(0)
    shape = np.array([(-80, -60), (90, -20), (60, 55), (0, 0), (-70, 50)])
    corners = places.mean(axis=0).round() + shape
    scene.drag(corners)
    chosen = Polygon(corners).contains_points(places)
    assert scene.ask(SELECTED) == np.flatnonzero(chosen).tolist()
    words = scene.summary()[0]
    assert words[::2] == [str(chosen.sum()), str(scene.wrong[chosen].sum())]


def test_keyboard_steps_through_the_errors_a_live_line_names_each_bars_show_its_shares(
    scene,
):
    errors = np.flatnonzero(scene.wrong)
    steps = ["next", "next", "previous", "previous", "next"]
    for name, k in zip(steps, errors[[0, 1, 0, -1, 0]], strict=True):
        scene.press(f"{name} error")
        assert scene.ask(SELECTED) == [k]
    words, mean, bars = scene.summary()
    expected = [scene.numbers[k], scene.labels[k], scene.answers[k]]
    assert [int(word) for word in words[:3]] == expected
    np.testing.assert_array_equal(mean, scene.images[k])
    shares = scene.values["probabilities"][scene.numbers[k]]
    np.testing.assert_allclose(bars["share"], shares, rtol=1e-6)
    assert bars["text"] == [f"{100 * share:.1f} %" for share in shares]


def test_buttons_show_their_classes_say_so_move_no_axis_and_reset_the_view(scene):
    places = scene.places(3)
    scene.press("none")
    for name in ("7", "0", "3"):
        scene.press(name)
    kept = np.isin(scene.labels, [0, 3, 7])
    assert scene.ask(PRESSED) == ["0", "3", "7"]
    assert scene.ask(SAID)[0] == str(kept.sum())
    drawn = scene.around(3, scene.pixels(), [0])[0].min(axis=1) < 200
    assert (drawn == kept).mean() > 0.9  # numbers stand in between
    named = scene.ask("[...panels[3].model.renderers[3].view.indices]")
    assert named == [0, 3, 7]
    np.testing.assert_array_equal(scene.places(3), places)
    scene.ask("panels[3].model.x_range.start -= 1")
    assert (scene.places(3) != places).any()
    scene.press("reset view")
    np.testing.assert_array_equal(scene.places(3), places)


def test_only_errors_deselects_the_others_and_shows_the_answers_as_rims_and_bars(
    scene,
):
    scene.ask(f"{SELECTED} = arguments[0]", list(range(40)))
    scene.press("only errors")
    assert scene.ask(SELECTED) == np.flatnonzero(scene.wrong[:40]).tolist()
    scene.press("all", ESCAPE)
    pixels = scene.pixels()
    answers = scene.answers[scene.wrong]
    for panel in range(4):
        rims = scene.around(panel, pixels, [-3, 3]).mean(axis=0)[scene.wrong]
        distances = np.abs(rims[:, None] - COLOURS).sum(axis=2)  # [errors, 10]
        assert np.mean(distances.argmin(axis=1) == answers) > 0.8  # numbers hide some
    bars = scene.summary()[2]
    assert bars["share"] == np.bincount(answers, minlength=10).tolist()
    assert not any(bars["wrong"])


@pytest.mark.parametrize(
    ("width", "height", "columns"),
    [(1024, 768, 3), (683, 384, 1), (390, 844, 1)],
)
def test_nothing_leaves_the_window_and_a_narrow_one_has_one_column(
    width, height, columns, scene
):
    scene.resize(width, height)
    elements = "deep('h1, p, .bk-Figure, .bk-Toolbar, .bk-btn')"
    boxes = np.array(scene.ask(f"corners({elements})"))
    assert len(boxes) >= 3 + 7 + 1 + 16
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= width
    left = scene.ask("corners(panels.map(({el}) => el)).map(([left]) => left)")
    assert len(set(left)) == columns
