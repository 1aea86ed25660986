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
COLOURS = 255 * np.array([to_rgb(colour) for colour in CLASS_COLOURS])
SAID = "numbers(get('said').textContent)"
ESCAPE = "\ue00c"
TAB = "\ue004"
ROTATION = np.array([[0.6, 0.8], [-0.8, 0.6]])
FLAGS = "--headless=new --no-sandbox --disable-gpu --proxy-server=nowhere"
# As a platform for courses may set it
POLICY = '<meta http-equiv="Content-Security-Policy" content="connect-src \'none\'">'
# Numbers in a text, places of points and corners of elements on the screen
HELPERS = r"""
window.numbers = text => text.match(/\d+([.,]\d+)*/g);
window.places = (panel, points) => {
  const {frame, el} = panels[panel], {left, top} = el.getBoundingClientRect();
  return points.map(
    ([x, y]) => [left + frame.x_scale.compute(x), top + frame.y_scale.compute(y)]);
};
window.corners = selector => [...document.querySelectorAll(selector)].map(each => {
  const {left, top, right, bottom} = each.getBoundingClientRect();
  return [left, top, right, bottom];
});
window.labels = selector => [...document.querySelectorAll(selector + " a")].map(
  each => parseInt(each.dataset.label));
window.focused = () => {
  const stop = document.activeElement, seen = stop.parentElement.querySelector("span");
  const name = stop.innerText || stop.ariaLabel || stop.labels[0].innerText;
  return [name, getComputedStyle(seen || stop).outlineWidth];
};
const poll = setInterval(() => {
  if (!window.Bokeh?.documents[0]?.is_idle || !numbers(get("said").textContent)) return;
  window.panels = Bokeh.documents[0].roots().map(each => Bokeh.index.find_one(each));
  clearInterval(poll), arguments[0]();
}, 20);"""


class Scene:
    """The page in the browser, and the digits that it should hold."""

    def __init__(self, browser, address, values):
        self.browser = browser
        self.address = address
        self.values = values
        answers = values["probabilities"].argmax(axis=1)
        errors = np.flatnonzero(answers != values["labels"])
        self.numbers = np.union1d(values["shown"], errors)
        self.labels = values["labels"][self.numbers]
        self.wrong = (answers != values["labels"])[self.numbers]
        confidence = values["probabilities"][errors].max(axis=1)
        self.errors = errors[np.argsort(-confidence)]  # most confident first

    def open(self, address=""):
        self.browser.get("about:blank")
        self.browser.get(self.address + address)
        self.browser.execute_async_script(HELPERS)

    def ask(self, script, *arguments):
        """Evaluate JavaScript once everything is painted."""
        later = (
            "requestAnimationFrame(() => setTimeout(() => "
            f"arguments[arguments.length - 1]({script}), 40))"
        )
        return self.browser.execute_async_script(later, *arguments)

    def resize(self, width, height, finger=False):
        size = {"width": width, "height": height, "deviceScaleFactor": 1}
        command = "Emulation.setDeviceMetricsOverride"
        self.browser.execute_cdp_cmd(command, size | {"mobile": finger})
        command = "Emulation.setTouchEmulationEnabled"
        self.browser.execute_cdp_cmd(command, {"enabled": finger})

    def mouse(self, kind, place, buttons=0, **more):
        x, y = np.round(place).tolist()
        event = {"type": f"mouse{kind}", "x": x, "y": y, "buttons": buttons}
        event |= {"button": "left", "clickCount": 1, **more}
        self.browser.execute_cdp_cmd("Input.dispatchMouseEvent", event)

    def drag(self, corners):
        """Drag the mouse along corners; a single one is clicked."""
        self.mouse("Pressed", corners[0], buttons=1)
        for corner in corners:
            self.mouse("Moved", corner, buttons=1)
        self.mouse("Released", corners[-1], buttons=1)

    def type(self, keys, name):
        """Type keys where the element with this id is."""
        self.ask(f"get('{name}')").send_keys(keys)

    def press(self, name):
        self.ask(f"get('{name}').click()")

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

    def digit(self, selector):
        """Return what the screen shows of an element, 28 x 28 pixels of ink."""
        pixels = self.pixels()
        left, top, right, bottom = self.ask(f"corners('{selector}')[0]")
        box = pixels[round(top) : round(bottom), round(left) : round(right), 0]
        step = len(box) // 28
        return 255 - box[step // 2 :: step, step // 2 :: step]

    def shown(self):
        """Return the number of the image that is shown."""
        return int(self.ask("location.hash.slice(1)"))


def sample():
    """Return images, none of a 6, on a grid in random orders, and all at one place in
    the last space. Every sixth is wrong.
    """
    data = load_data(train=False)
    rng = np.random.default_rng(0)
    kept = np.flatnonzero(data.labels != 6)[:COUNT]
    labels = data.labels[kept]
    answers = np.where(np.arange(COUNT) % 6, labels, (labels + 1) % 10)
    probabilities = (rng.dirichlet(np.ones(10), COUNT) + np.eye(10)[answers]) / 2
    grid = np.stack(np.divmod(np.arange(COUNT), 15), axis=1)
    spaces = []
    for k in range(5):
        points = (k < 4) * rng.permutation(grid)
        vectors = rng.normal(size=(COUNT, 20 + k))
        spaces.append(Space(f"space {k}", vectors, points, ROTATION, 31 + k))
    return {
        "images": data.images[kept],
        "labels": labels,
        "probabilities": probabilities,
        "spaces": spaces,
        "shown": rng.permutation(COUNT)[: COUNT // 2],
    }


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page under a policy that forbids connections; at the end, the browser must
    not have complained.
    """
    driver = shutil.which("chromedriver")
    if not driver or not find_spec("selenium"):
        refuse = pytest.fail if os.environ.get("CI") else pytest.skip
        refuse("Selenium, Chromium and chromedriver are needed")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for flag in FLAGS.split():
        options.add_argument(flag)
    path = tmp_path_factory.mktemp("page") / "page.html"
    values = sample()
    save_page(path, **values)
    text = path.read_text("utf-8").replace("<meta", POLICY + "<meta", 1)
    path.write_text(text, "utf-8")
    with webdriver.Chrome(options, webdriver.ChromeService(driver)) as browser:
        yield Scene(browser, path.as_uri(), values)
        assert browser.get_log("browser") == []


@pytest.fixture
def scene(page):
    """The page as it is when it is opened."""
    page.mouse("Moved", (0, 0))
    page.resize(1366, 768)
    page.open()
    return page


def test_the_page_opens_with_its_finding_and_the_most_confident_error(scene):
    words = scene.ask("numbers(document.querySelector('header').innerText)")
    others = len(scene.numbers) - 30
    assert {"31", "35", "83", "30", str(COUNT), str(others)} <= set(words)
    text = scene.ask("document.querySelector('main').innerText")
    for k in range(5):
        assert f"space {k}: {31 + k} %" in text
        assert f"{20 + k} dimensions" in text
    assert scene.shown() == scene.errors[0]
    axes = scene.ask("panels.map(e => e.model.left[0].axis_label)")
    assert axes == 5 * ["0.80 PC 1 +0.60 PC 2"]


def test_panels_draw_digits_in_class_colours_and_their_numbers_on_top(scene):
    pixels = scene.pixels()
    expected = 0.85 * COLOURS[scene.labels] + 0.15 * 255  # the opacity of the dots
    for panel in range(4):
        difference = np.abs(scene.around(panel, pixels, [0])[0] - expected)
        # Numbers and ellipses hide some
        assert np.mean(difference.max(axis=1) < 6) > 0.6
        marks = scene.ask(f"panels[{panel}].model.renderers[3].data_source.data.text")
        assert list(map(int, marks)) == CLASSES


def test_pointing_shows_the_uppermost_image_and_rings_and_a_click_shows_all_of_it(
    scene,
):
    uppermost = scene.errors[-1]
    scene.mouse("Moved", scene.places(4)[0])
    row = np.flatnonzero(scene.numbers == uppermost)
    assert str(uppermost) in scene.ask("numbers(get('tip').innerText)")
    pixels = scene.pixels()
    for panel in range(4):
        assert scene.around(panel, pixels, [-7, 7])[:, row].max() < 60
    assert scene.shown() != uppermost

    scene.drag(scene.places(4)[:1])
    assert scene.shown() == uppermost
    image = scene.values["images"][uppermost]
    np.testing.assert_allclose(scene.digit("#picture"), image, atol=1)


def test_next_error_goes_by_confidence_and_bars_show_the_probabilities(scene):
    for number in [*scene.errors[1:], scene.errors[0]]:
        scene.press("next")
        assert scene.shown() == number
    shares = scene.values["probabilities"][number]
    said = list(map(float, scene.ask(SAID)))
    label = scene.values["labels"][number]
    assert said == [number, label, shares.argmax(), round(100 * shares.max(), 1)]
    bars = np.array(scene.ask("corners('#bars i')"))
    track = np.array(scene.ask("corners('.track')"))
    heights = (bars[:, 3] - bars[:, 1]) / (track[:, 3] - track[:, 1] - 1)
    np.testing.assert_allclose(heights, shares, atol=0.01)


def test_images_are_found_by_number_by_address_and_by_their_thumbnails(scene):
    right = scene.numbers[~scene.wrong]
    scene.open(f"#{right[0]}")
    assert scene.shown() == right[0]
    absent = np.setdiff1d(np.arange(COUNT), scene.numbers)[0]
    for number in (right[1], absent):
        scene.ask("get('number').value = ''")
        scene.type(f"{number}\n", "number")
        assert scene.shown() == right[1]
        assert scene.ask(SAID)[0] == str(number)
    link = "document.querySelector('.nearest a')"
    number = int(scene.ask(f"{link}.hash.slice(1)"))
    scene.ask(f"{link}.click()")
    assert scene.shown() == number


def test_the_nearest_images_are_those_of_the_full_space(scene):
    number = scene.shown()
    strips = "[...document.querySelectorAll('.nearest')]"
    links = scene.ask(f"{strips}.map(e => [...e.children].map(a => a.hash.slice(1)))")
    for space, found in zip(scene.values["spaces"], links, strict=True):
        others = scene.numbers[scene.numbers != number]
        distances = np.linalg.norm(
            space.vectors[others] - space.vectors[number], axis=1
        )
        nearest = others[np.argsort(distances)[:5]]
        assert [int(each) for each in found] == nearest.tolist()


def test_a_lasso_shows_what_it_holds_until_escape(scene):
    places = scene.places(0)
    shape = np.array([(-60, -50), (70, -20), (-10, 60)])
    corners = places.mean(axis=0).round() + shape
    scene.drag(corners)
    chosen = Polygon(corners).contains_points(places)
    words = scene.ask(SAID)[:2]
    assert words == [str(chosen.sum()), str(scene.wrong[chosen].sum())]
    assert sorted(scene.ask("labels('#many')")) == sorted(scene.labels[chosen])
    scene.type(ESCAPE, "next")
    assert scene.ask(SAID)[0] == str(scene.shown())


def test_digits_and_errors_are_filtered_without_moving_an_axis(scene):
    places = scene.places(3)
    kept = np.isin(scene.labels, [0, 3, 7])
    scene.press("none")
    for number in (7, 0, 3):
        scene.ask(f"document.querySelectorAll('#classes input')[{number}].click()")
    for name, wanted in (("reset", kept), ("errors", kept & scene.wrong)):
        scene.press(name)
        drawn = scene.around(3, scene.pixels(), [0])[0].min(axis=1) < 200
        assert (drawn == wanted).mean() > 0.9  # ellipses cross others
    scene.press("next")
    assert scene.shown() in scene.numbers[wanted]
    np.testing.assert_array_equal(scene.places(3), places)


def test_the_wheel_scrolls_until_zoom_is_chosen_and_the_view_is_reset(scene):
    scene.resize(1366, 400)
    places = scene.places(0)
    uppermost = places[places[:, 1].argmin()]
    wheel = {"deltaX": 0, "deltaY": 20}
    scene.mouse("Wheel", uppermost, **wheel)
    scene.ask("0")
    assert scene.ask("scrollY") > 0
    scene.ask("scrollTo(0, 0)")
    np.testing.assert_array_equal(scene.places(0), places)
    scene.press("zoom")
    scene.mouse("Wheel", uppermost, **wheel)
    assert (scene.places(0) != places).any()
    scene.press("reset")
    np.testing.assert_allclose(scene.places(0), places)


@pytest.mark.parametrize(
    ("width", "columns"), [(1920, 5), (1366, 5), (768, 3), (390, 1), (320, 1)]
)
def test_nothing_is_clipped_and_the_digit_stays_in_view_where_a_finger_taps(
    width, columns, scene
):
    scene.resize(width, 844, finger=width < 700)
    scene.open()
    boxes = np.array(scene.ask("corners('body *:not(script, #tip, #many)')"))
    assert boxes[:, 0].min() >= 0
    assert boxes[:, 2].max() <= width
    left = scene.ask("corners('figure').map(([left]) => left)")
    assert len(set(left)) == columns
    scene.ask(
        "document.querySelectorAll('figure')[3].scrollIntoView({block: 'center'})"
    )
    place = scene.places(3)[scene.numbers == scene.errors[-1]]
    point = {"x": place[0, 0], "y": place[0, 1]}
    for kind, points in (("Start", [point]), ("End", [])):
        event = {"type": f"touch{kind}", "touchPoints": points}
        scene.browser.execute_cdp_cmd("Input.dispatchTouchEvent", event)
    if columns == 1:
        assert scene.shown() == scene.errors[-1]
        _, top, _, bottom = scene.ask("corners('#picture')[0]")
        assert 0 <= top < bottom <= 844


def test_every_stop_of_the_keyboard_has_a_name_and_shows_that_it_is_there(scene):
    for _ in range(12):
        scene.browser.switch_to.active_element.send_keys(TAB)
        name, outline = scene.ask("focused()")
        assert name
        assert outline == "3px"
