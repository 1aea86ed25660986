"""The page of task 4: its bytes, and what a visitor sees and does in a real browser without a network."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from matplotlib.path import Path as Polygon
from PIL import Image

from common.data import load_data
from common.explorer import save_page
from common.plotting import CLASS_COLOURS

NAMES = ("pixels", "layer 1", "layer 2", "layer 3", "layer 4")
SIZES = ((1366, 768), (1920, 1080), (1024, 768))
COLOURS = np.array([list(bytes.fromhex(colour[1:])) for colour in CLASS_COLOURS])
OPACITY = 0.85  # of the dots
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND"),
)
# Functions for the tests: elements behind shadow roots, the digits, the panels, and a digit's place on the screen.
HELPERS = """
window.deep = (selector, root = document) => [...root.querySelectorAll("*")].flatMap(element =>
  [...(element.matches(selector) ? [element] : []), ...(element.shadowRoot ? deep(selector, element.shadowRoot) : [])]);
window.models = [...Bokeh.documents[0]._all_models.values()];
window.digits = models.find(model => model.type == "ColumnDataSource" && model.data.label);
window.panels = models.filter(model => model.type == "Figure" && model.title && model.title.text)
  .map(model => Bokeh.index.find_one(model));
window.place = (panel, i) => {
  const view = panels[panel], name = view.model.title.text, {left, top} = view.el.getBoundingClientRect();
  return [left + view.frame.x_scale.compute(digits.data[name + " x"][i]),
    top + view.frame.y_scale.compute(digits.data[name + " y"][i])];
};
"""


class Scene:
    """One page, the values from which it was made, and the browser that shows it."""

    def __init__(self, browser, url, values, numbers):
        self.browser, self.url, self.values, self.numbers = browser, url, values, numbers
        self.labels = values["labels"][numbers]
        self.answers = values["probabilities"][numbers].argmax(axis=1)

    def ask(self, script, *arguments):
        return self.browser.execute_script(f"return {script}", *arguments)

    def open(self, size=SIZES[0]):
        values = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": False}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", values)
        self.browser.get("about:blank")
        for kind in ("browser", "performance"):
            self.browser.get_log(kind)  # drops what the browser did before, such as its start page
        self.browser.get(self.url)
        self.wait("window.Bokeh && Bokeh.documents.length == 1 && Bokeh.documents[0].is_idle")
        self.browser.execute_script(HELPERS)
        self.wait('models.find(model => model.type == "Div").text != ""')
        self.settle()

    def wait(self, script):
        limit = time.monotonic() + 20
        while not self.ask(script):
            assert time.monotonic() < limit, script
            time.sleep(0.02)

    def settle(self):
        """Wait until what has been asked for is painted."""
        self.browser.execute_async_script(
            "const done = arguments[0]; requestAnimationFrame(() => setTimeout(() => requestAnimationFrame(done), 60))"
        )

    def act(self, *steps):
        """Move the mouse to places (x, y); press, release or click it."""
        from selenium.webdriver import ActionChains

        chain = ActionChains(self.browser, duration=30)
        pointer = chain.w3c_actions.pointer_action
        for step in steps:
            if isinstance(step, str):
                getattr(pointer, step)()
            else:
                pointer.move_to_location(*(round(number) for number in step))
        chain.perform()
        self.settle()

    def press(self, text):
        buttons = self.ask('deep(".bk-btn").filter(button => button.textContent.trim() == arguments[0])', text)
        assert len(buttons) == 1
        buttons[0].click()
        self.settle()

    def key_escape(self):
        from selenium.webdriver import ActionChains, Keys

        ActionChains(self.browser).send_keys(Keys.ESCAPE).perform()
        self.settle()

    def places(self, panel):
        """Return where the digits of the page stand on the screen [M, 2]."""
        return np.array(self.ask("Array.from(digits.data.label, (_, i) => place(arguments[0], i))", panel))

    def pixels(self):
        with Image.open(io.BytesIO(self.browser.get_screenshot_as_png())) as image:
            return np.asarray(image.convert("RGB")).astype(int)

    def selected(self):
        return sorted(self.ask("digits.selected.indices"))

    def shown(self):
        """Return the digits that can be seen, the same in all panels."""
        views = self.ask("panels.map(view => [...view.model.renderers[1].view.indices])")
        assert all(view == views[0] for view in views)
        return views[0]

    def words(self):
        return self.ask('models.find(model => model.type == "Div").text').replace("<br>", " ")

    def bars(self):
        return self.ask('models.find(model => model.type == "ColumnDataSource" && model.data.share).data')

    def tooltips(self):
        """Return text and image place of each visible digit in a tooltip."""
        return self.ask("""deep(".bk-tooltip-content > div > div").filter(each => each.getBoundingClientRect().width)
            .map(each => [each.innerText, each.querySelector("div > div").getBoundingClientRect().toJSON()])""")


def sample(count, seed=0, missing=6):
    """Return images without one class, on a grid in another order for each space; every sixth answer is wrong."""
    data = load_data(train=False)
    kept = np.flatnonzero(data.labels != missing)[:count]
    rng = np.random.default_rng(seed)
    grid = np.stack(np.divmod(np.arange(count), -(-count // 12)), axis=1) * (1.6, 1.0)
    labels = data.labels[kept].astype(np.int64)
    probabilities = rng.dirichlet(np.ones(10), count)
    answers = np.where(np.arange(count) % 6, labels, (labels + 1) % 10)
    probabilities[np.arange(count), answers] += 1
    return {
        "spaces": [(name, grid[rng.permutation(count)], (0.25, 0.125)) for name in NAMES],
        "images": data.images[kept],
        "labels": labels,
        "probabilities": probabilities / 2,
        "title": "Digits",
        "shown": rng.permutation(count)[: count * 3 // 4],
    }


def page_numbers(values):
    """Return the images in the order in which the page holds them."""
    wrong = values["probabilities"].argmax(axis=1) != values["labels"]
    return np.array([*values["shown"], *(i for i in np.flatnonzero(wrong) if i not in set(values["shown"]))])


def write(folder, **values):
    save_page(folder / "page.html", **values)
    return folder / "page.html"


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    program, driver = next(filter(None, map(shutil.which, names)), None), shutil.which("chromedriver")
    try:
        from selenium import webdriver
    except ImportError:
        webdriver = None
    missing = [
        name for name, found in (("Selenium", webdriver), ("Chromium", program), ("chromedriver", driver)) if not found
    ]
    if missing:
        reason = f"no {', '.join(missing)} on this machine"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    service = webdriver.ChromeService(driver, env={**os.environ, "SE_OFFLINE": "true"})
    driven = webdriver.Chrome(options=options, service=service)
    yield driven
    driven.quit()


@pytest.fixture(scope="module")
def visited(browser, tmp_path_factory):
    values = sample(180)
    return Scene(browser, write(tmp_path_factory.mktemp("page"), **values).as_uri(), values, page_numbers(values))


@pytest.fixture
def scene(visited):
    visited.open()
    yield visited
    assert_quiet(visited)


def assert_quiet(scene):
    """Fail if the browser has complained, or asked for anything but the file and what the file itself contains."""
    assert [entry for entry in scene.browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    events = [json.loads(entry["message"])["message"] for entry in scene.browser.get_log("performance")]
    requests = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert scene.url in requests
    assert [url for url in requests if url != scene.url and not url.startswith(("data:", "blob:"))] == []


def test_same_input_gives_the_same_bytes_in_any_process(tmp_path):
    values = sample(60)
    first = digest(write(tmp_path, **values))
    assert digest(write(tmp_path, **values)) == first
    code = "from test_explorer import *; write(Path(sys.argv[1]), **sample(60))"
    code = f"import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests')!r}]; from pathlib import Path; {code}"
    environment = {**os.environ, "PYTHONHASHSEED": "7", "MPLBACKEND": "agg"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "other")], check=True, env=environment)
    assert digest(tmp_path / "other" / "page.html") == first


def test_page_of_3300_digits_has_at_most_five_megabytes(tmp_path):
    values = sample(3300)
    values["shown"] = np.arange(3300)
    assert write(tmp_path, **values).stat().st_size <= 5e6


def test_page_names_no_address_that_a_browser_would_load(tmp_path):
    text = write(tmp_path, **sample(20)).read_text(encoding="utf-8")
    assert "<script src" not in text
    assert "<link" not in text.partition("<script>")[0]


def test_every_panel_draws_every_digit_in_the_colour_of_its_class(scene):
    pixels = scene.pixels()
    expected = OPACITY * COLOURS[scene.labels] + (1 - OPACITY) * 255
    for panel in range(5):
        places = scene.places(panel).round().astype(int)
        found = pixels[places[:, 1], places[:, 0]]
        assert found.shape == (len(scene.numbers), 3)
        assert np.abs(found - expected).max() < 6  # the lines of the grid shine through


@pytest.mark.parametrize(("panel", "digit"), [(0, 3), (2, -1), (4, 77)])
def test_pointing_at_a_dot_shows_its_image_and_answer_and_marks_it_in_every_panel(scene, panel, digit):
    digit %= len(scene.numbers)
    number = scene.numbers[digit]
    before = scene.pixels()
    scene.act(scene.places(panel)[digit])
    [(text, area)] = scene.tooltips()
    sure = 100 * scene.values["probabilities"][number].max()
    assert text.split() == (
        f"label {scene.labels[digit]} network {scene.answers[digit]}, {sure:.1f}% sure image {number}".split()
    )
    after = scene.pixels()
    left, top = round(area["x"]), round(area["y"])
    drawn = after[top : top + 112, left : left + 112]
    wanted = 255 - scene.values["images"][number].astype(int).repeat(4, axis=0).repeat(4, axis=1)
    assert np.abs(drawn - wanted[..., None]).max() <= 13  # the tooltip lets 5 % of the panel through
    for other in set(range(5)) - {panel}:
        x, y = scene.places(other)[digit].round().astype(int)
        for column in (x - 7, x + 7):
            assert after[y, column].max() < 60
    assert scene.selected() == []
    scene.act((1300, 30))
    assert scene.tooltips() == []
    assert (scene.pixels() == before).all()


def choose_tool(scene, name):
    [button] = scene.ask('deep("div").filter(each => each.title.startsWith(arguments[0]))', name)
    button.click()
    scene.settle()


def inside(scene, panel, corners):
    """Return which digits lie inside a polygon of screen places, from the points that the page was made from."""
    script = """arguments[1].map(([x, y]) => {
      const {frame, el} = panels[arguments[0]], {left, top} = el.getBoundingClientRect();
      return [frame.x_scale.invert(x - left), frame.y_scale.invert(y - top)];
    })"""
    polygon = Polygon(scene.ask(script, panel, [[float(x), float(y)] for x, y in corners]))
    return np.flatnonzero(polygon.contains_points(scene.values["spaces"][panel][1][scene.numbers])).tolist()


def drag_box(scene, panel):
    """Drag a box over the middle of a panel; return the digits that it holds."""
    choose_tool(scene, "Box Select")
    centre = scene.places(panel).mean(axis=0).round()
    corners = centre + np.array([(-61, -40), (61, -40), (61, 40), (-61, 40)])
    scene.act(corners[0], "pointer_down", centre, corners[2], "pointer_up")
    return inside(scene, panel, corners)


@pytest.mark.parametrize("panel", [0, 3])
def test_box_in_one_panel_selects_the_same_digits_in_all_and_fades_the_others(scene, panel):
    expected = drag_box(scene, panel)
    assert 10 < len(expected) < len(scene.numbers) / 2
    assert scene.selected() == expected
    scene.act((1300, 30))
    pixels = scene.pixels()
    for other in range(5):
        places = scene.places(other).round().astype(int)
        strength = np.abs(pixels[places[:, 1], places[:, 0]] - 255).sum(axis=1)
        chosen = np.isin(np.arange(len(places)), expected)
        assert strength[chosen].min() > strength[~chosen].max() > 0


def test_lasso_selects_the_digits_inside_it(scene):
    centre = scene.places(1).mean(axis=0).round()
    corners = centre + np.array([(-80, -60), (90, -20), (60, 55), (0, 0), (-70, 50)])
    scene.act(corners[0], "pointer_down", *corners[1:], "pointer_up")
    assert scene.selected() == inside(scene, 1, corners) != []


def test_selected_digits_are_summed_up_by_mean_counts_and_errors(scene):
    chosen = np.array(drag_box(scene, 2))
    wrong = scene.answers != scene.labels
    assert f"{len(chosen)} images selected, {wrong[chosen].sum()} of them wrong" in " ".join(scene.words().split())
    counts = np.bincount(scene.labels[chosen], minlength=10)
    bars = scene.bars()
    assert bars["text"] == [str(count) for count in counts]
    np.testing.assert_allclose(bars["share"], counts / counts.max())
    errors = np.bincount(scene.labels[chosen][wrong[chosen]], minlength=10)
    np.testing.assert_allclose(bars["wrong"], errors / counts.max())
    mean = scene.ask("[...models.find(model => model.data && model.data.image).data.image[0]]")
    np.testing.assert_allclose(np.reshape(mean, (28, 28)), scene.values["images"][scene.numbers[chosen]].mean(axis=0))


def test_click_selects_one_digit_and_shows_the_probabilities_of_the_network(scene):
    scene.act(scene.places(3)[8], "click")
    assert scene.selected() == [8]
    probabilities = scene.values["probabilities"][scene.numbers[8]]
    np.testing.assert_allclose(scene.bars()["share"], probabilities, rtol=1e-6)
    assert scene.bars()["text"] == [f"{100 * np.float32(share):.1f}%" for share in probabilities]
    words = f"Image {scene.numbers[8]}: label {scene.labels[8]}, network {scene.answers[8]}"
    assert words in scene.words()
    mean = scene.ask("[...models.find(model => model.data && model.data.image).data.image[0]]")
    np.testing.assert_array_equal(np.reshape(mean, (28, 28)), scene.values["images"][scene.numbers[8]])


@pytest.mark.parametrize("way", ["escape", "empty click"])
def test_escape_and_a_click_beside_the_dots_clear_the_selection(scene, way):
    assert drag_box(scene, 1)
    if way == "escape":
        scene.key_escape()
    else:
        rows_and_columns = (np.unique(numbers.round(2)) for numbers in scene.places(1).T)
        scene.act([numbers[3:5].mean() for numbers in rows_and_columns], "click")
    assert scene.selected() == []
    assert f"{len(scene.numbers)} images shown" in scene.words()


def test_each_button_leaves_the_digits_of_its_class(scene):
    for number in range(10):
        scene.press("none")
        assert scene.shown() == []
        scene.press(str(number))
        assert scene.shown() == np.flatnonzero(scene.labels == number).tolist()
    scene.press("0")
    assert scene.shown() == np.flatnonzero(np.isin(scene.labels, [0, 9])).tolist()
    scene.press("all")
    assert scene.shown() == list(range(len(scene.numbers)))
    assert f"{len(scene.numbers)} images shown" in scene.words()


def test_only_errors_leaves_every_image_that_the_network_gets_wrong(scene):
    scene.press("only errors")
    wrong = np.flatnonzero(scene.answers != scene.labels).tolist()
    assert scene.shown() == wrong
    assert len(wrong) == (scene.values["probabilities"].argmax(axis=1) != scene.values["labels"]).sum() > 0
    scene.press("none")
    scene.press("2")
    assert scene.shown() == [i for i in wrong if scene.labels[i] == 2]
    scene.press("only errors")
    assert scene.shown() == np.flatnonzero(scene.labels == 2).tolist()


def test_buttons_move_no_axis_and_take_hidden_digits_out_of_the_selection(scene):
    chosen = drag_box(scene, 0)
    places = [scene.places(panel) for panel in range(5)]
    scene.press("only errors")
    assert scene.selected() == [i for i in chosen if scene.answers[i] != scene.labels[i]]
    for panel in range(5):
        np.testing.assert_array_equal(scene.places(panel), places[panel])


def test_wheel_zooms_one_panel_until_reset(scene):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin

    widths = "panels.map(({model}) => model.x_range.end - model.x_range.start)"
    before = scene.ask(widths)
    x, y = scene.places(2).mean(axis=0).round().astype(int).tolist()
    ActionChains(scene.browser).scroll_from_origin(ScrollOrigin.from_viewport(x, y), 0, -300).perform()
    scene.settle()
    zoomed = scene.ask(widths)
    assert zoomed[2] < before[2]
    assert zoomed[:2] + zoomed[3:] == before[:2] + before[3:]
    choose_tool(scene, "Reset")
    assert scene.ask(widths) == pytest.approx(before)


@pytest.mark.parametrize("size", SIZES)
def test_nothing_overlaps_or_leaves_the_window(visited, size):
    visited.open(size)
    page = visited.ask("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
    assert page == list(size)
    boxes = visited.ask("""[...document.querySelectorAll("h1, p"), ...deep(".bk-Figure"), ...deep(".bk-Toolbar"),
        ...deep(".bk-btn"), ...deep(".bk-Div")].map(each => each.getBoundingClientRect().toJSON())
        .filter(box => box.width && box.height)""")
    assert len(boxes) == 2 + 7 + 1 + 13 + 1
    for number, box in enumerate(boxes):
        assert box["left"] >= 0
        assert box["top"] >= 0
        assert box["right"] <= size[0]
        assert box["bottom"] <= size[1]
        for other in boxes[:number]:
            apart_x = max(box["left"], other["left"]) >= min(box["right"], other["right"]) - 1  # buttons share a border
            apart_y = max(box["top"], other["top"]) >= min(box["bottom"], other["bottom"]) - 1
            assert apart_x or apart_y, (box, other)
    frames = visited.ask("panels.map(({frame}) => [frame.bbox.width, frame.bbox.height])")
    assert np.min(frames) >= 200
    text, room = visited.ask(
        "deep('.bk-Div').map(({shadowRoot, clientHeight}) =>"
        " [shadowRoot.querySelector('.bk-clearfix').scrollHeight, clientHeight])[0]"
    )
    assert text <= room
    assert_quiet(visited)


def test_page_works_with_few_images_and_with_one_class_and_keeps_tags_in_titles_apart(browser, tmp_path):
    values = sample(20) | {"title": "</script> & <b>digits</b>"}
    values["spaces"] = [(f"{name} </script>", points, shares) for name, points, shares in values["spaces"]]
    numbers = page_numbers(values)
    scene = Scene(browser, write(tmp_path, **values).as_uri(), values, numbers)
    scene.open()
    assert scene.ask("document.querySelector('h1').textContent") == values["title"]
    assert scene.ask("panels.map(view => view.model.title.text)") == [name for name, *_ in values["spaces"]]
    assert scene.shown() == list(range(len(numbers)))
    assert scene.bars()["text"][6] == "0"
    scene.press("none")
    scene.press("6")  # the class that is missing
    assert scene.shown() == []
    assert "0 images shown, 0 of them wrong" in " ".join(scene.words().split())
    assert_quiet(scene)


def test_of_dots_at_one_place_the_uppermost_is_shown_and_selected(browser, tmp_path):
    values = sample(20)
    values["spaces"][1] = ("layer 1", np.zeros((20, 2)), (0.0, 0.0))
    scene = Scene(browser, write(tmp_path, **values).as_uri(), values, page_numbers(values))
    scene.open()
    scene.act(scene.places(1)[0], "click")
    [(text, _)] = scene.tooltips()
    assert text.split()[-1] == str(scene.numbers[-1])
    assert scene.selected() == [len(scene.numbers) - 1]
    assert_quiet(scene)
