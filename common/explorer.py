"""A page for the browser: the same digits in five planes, and their nearest images.

Bokeh draws the panels; explorer.html holds the page and explorer.js does the rest. The
page is one file, which fetches nothing.
"""

import base64
import io
import json
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import NamedTuple

import numpy as np
from bokeh import models
from bokeh.document import Document
from bokeh.plotting import figure
from bokeh.resources import Resources
from bokeh.transform import linear_cmap
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from common.plotting import CLASS_COLOURS, half_ellipse, number_places, text_colour
from common.script import replacing

FOLDER = Path(__file__).parent
# explorer.js has these numbers, too, and explorer.html the second
NEAREST = 5  # images shown below each panel
ACROSS = 64  # images in a row of the picture that holds all images


class Space(NamedTuple):
    """One panel: vectors [N, D], and points [N, 2] in a plane of their space.

    `accuracy` is that of nearest neighbours in the plane, in per cent; column k of
    `rotation` [2, 2] says how much of PC 1 and PC 2 axis k holds.
    """

    name: str
    vectors: np.ndarray
    points: np.ndarray
    rotation: np.ndarray
    accuracy: float


def sprite_sheet(images: np.ndarray) -> str:
    """Return the data URL of one PNG with the images uint8 [M, 28, 28], 64 in a row,
    dark on white.
    """
    padded = np.pad(images, [(0, -len(images) % ACROSS), (0, 0), (0, 0)])
    rows = padded.reshape(-1, ACROSS, 28, 28).swapaxes(1, 2)
    file = io.BytesIO()
    Image.fromarray(255 - rows.reshape(-1, 28 * ACROSS)).save(file, "png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def axis_name(shares: Sequence[float]) -> str:
    """Return what an axis shows, from its shares of PC 1 and PC 2."""
    first, second = np.round(shares, 2) + 0.0  # no −0.00
    return f"{first:.2f} PC 1 {second:+.2f} PC 2".replace("-", "−")


def class_marks(points: np.ndarray, labels: np.ndarray) -> models.ColumnDataSource:
    """Return each class's ellipse and the place of its number, as the figures have them
    (`plotting.class_scatter`), for points [N, 2] of classes [N].
    """
    numbers = np.unique(labels)
    rims = [half_ellipse(points[labels == number]) for number in numbers]
    places = number_places(rims, points)
    return models.ColumnDataSource(
        {
            "label": numbers,
            "x": places[:, 0],
            "y": places[:, 1],
            "rim_x": [rim[:, 0] for rim in rims],
            "rim_y": [rim[:, 1] for rim in rims],
            "text": [str(number) for number in numbers],
            "colour": [CLASS_COLOURS[number] for number in numbers],
            "ink": [text_colour(CLASS_COLOURS[number]) for number in numbers],
        }
    )


def draw_panel(
    number: int,
    space: Space,
    digits: models.ColumnDataSource,
    marks: models.ColumnDataSource,
    filters: Sequence[models.IndexFilter],
) -> figure:
    """Draw one space: a dot for each digit, rings around those in the focus, and the
    marks of the classes; the filters say which digits, rings and classes are shown.
    """
    shown, focus, classes = [models.CDSView(filter=each) for each in filters]
    axes = figure(
        match_aspect=True,
        sizing_mode="scale_width",
        aspect_ratio=1,
        toolbar_location=None,
        tools="",
        lod_threshold=None,
        outline_line_color=None,
        x_axis_label=axis_name(space.rotation[:, 0]),
        y_axis_label=axis_name(space.rotation[:, 1]),
    )
    axes.axis.minor_tick_line_color = None
    axes.axis.axis_label_text_font_style = "normal"
    x = f"x{number}"
    y = f"y{number}"
    # The ranges hold all digits, shown or not: buttons of the classes move nothing
    all_dots = axes.scatter(x, y, source=digits, visible=False)
    axes.x_range.renderers = [all_dots]
    axes.y_range.renderers = [all_dots]
    dots = axes.scatter(
        x,
        y,
        source=digits,
        view=shown,
        size="size",
        line_width=1.5,
        fill_color=linear_cmap("label", CLASS_COLOURS, -0.5, 9.5),
        line_color=linear_cmap("rim", CLASS_COLOURS, -0.5, 9.5, low_color="#00000000"),
        alpha=0.85,
        nonselection_alpha=0.2,
    )
    axes.multi_line(
        "rim_x", "rim_y", source=marks, view=classes, color="colour", line_width=2
    )
    axes.text(
        "x",
        "y",
        source=marks,
        view=classes,
        anchor="center",
        text_color="ink",
        text_font_size="12px",
        text_font_style="bold",
        background_fill_color="colour",
        border_line_color="white",
        border_radius=3,
        padding=2,
    )
    # Alone on the overlay level, the rings move without a new drawing of the dots
    axes.scatter(
        x,
        y,
        source=digits,
        view=focus,
        size=14,
        line_width=2.5,
        fill_color=None,
        line_color="black",
        nonselection_alpha=1,
        level="overlay",
    )
    hovered = models.CustomJS(code="point(cb_data.index.indices)")
    tapped = models.CustomJS(code="tap(cb_data.source.inspected.indices)")
    axes.add_tools(
        models.HoverTool(tooltips=None, renderers=[dots], callback=hovered),
        models.TapTool(behavior="inspect", renderers=[dots], callback=tapped),
        models.LassoSelectTool(continuous=False, renderers=[dots]),
        models.PanTool(),
        models.WheelZoomTool(),
    )
    return axes


def digit_columns(
    spaces: Sequence[Space],
    labels: np.ndarray,
    probabilities: np.ndarray,
    numbers: np.ndarray,
) -> dict[str, np.ndarray]:
    """Return the columns of the digits with these numbers [M], in this order."""
    label = labels[numbers]
    probability = probabilities[numbers]  # [M, 10]
    answer = probability.argmax(axis=1)
    wrong = answer != label
    columns = {
        "number": numbers.astype(np.int32),
        "label": label.astype(np.int32),
        "answer": answer.astype(np.int32),
        "wrong": wrong.astype(np.int32),
        "rim": np.where(wrong, answer, -1).astype(np.int32),
        "size": np.where(wrong, 6, 4).astype(np.int32),
        "probability": probability.astype(np.float32),
    }
    for k, space in enumerate(spaces):
        points = space.points[numbers].astype(np.float32)
        columns[f"x{k}"] = points[:, 0]
        columns[f"y{k}"] = points[:, 1]
        search = NearestNeighbors(n_neighbors=NEAREST).fit(space.vectors[numbers])
        nearest = search.kneighbors(return_distance=False)  # [M, 5], without itself
        columns[f"nearest{k}"] = nearest.astype(np.uint16)
    return columns


def save_page(
    path: Path,
    spaces: Sequence[Space],
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    shown: np.ndarray,
) -> None:
    """Write the page: the images `shown` [K], as indices, and every image that the
    network gets wrong, in the planes of the spaces.

    `images` are uint8 [N, 28, 28], `labels` integers [N] and `probabilities` the
    network's [N, 10].
    """
    wrong = np.flatnonzero(probabilities.argmax(axis=1) != labels)
    certain = probabilities[wrong].max(axis=1)
    # The errors come last, which puts them on top, the most confident one first
    errors = wrong[np.argsort(-certain, kind="stable")]
    numbers = np.concatenate([np.setdiff1d(shown, wrong), errors])  # [M]
    digits = models.ColumnDataSource(
        digit_columns(spaces, labels, probabilities, numbers), name="digits"
    )
    digits.selected.js_on_change("indices", models.CustomJS(code="choose()"))
    filters = []
    for name in ("shown", "focus", "classes"):
        filters.append(models.IndexFilter(name=name))
    document = Document()
    panels = []
    for k, space in enumerate(spaces):
        marks = class_marks(space.points[numbers], labels[numbers])
        document.add_root(draw_panel(k, space, digits, marks, filters))
        panels.append(
            f"<figure><figcaption><b>{space.name}: {space.accuracy:.0f} %</b>"
            f'</figcaption><div id="panel{k}"></div><p>nearest in all '
            f"{space.vectors.shape[1]} dimensions</p>"
            '<div class="nearest"></div></figure>'
        )
    page = Template((FOLDER / "explorer.html").read_text("utf-8")).substitute(
        before=f"{spaces[0].accuracy:.0f}",
        after=f"{spaces[-1].accuracy:.0f}",
        last=spaces[-1].name,
        network=f"{100 - 100 * len(errors) / len(images):.0f}",
        errors=f"{len(errors):,}",
        others=f"{len(numbers) - len(errors):,}",
        images=f"{len(images):,}",
        panels="\n".join(panels),
        sheet=sprite_sheet(images[numbers]),
        bokeh="\n".join(Resources("inline", components=["bokeh"]).js_raw),
        colours=json.dumps(CLASS_COLOURS),
        inks=json.dumps([text_colour(colour) for colour in CLASS_COLOURS]),
        document=json.dumps(document.to_json(deferred=False)),
        script=(FOLDER / "explorer.js").read_text("utf-8"),
    )
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")
