"""A page in which a browser shows the images behind the dots of five scatter plots.

Bokeh draws and links the panels; short callbacks in JavaScript do the rest. The page is
one file that needs no network.
"""

import base64
import html
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import NamedTuple

import numpy as np
from bokeh import models as bk
from bokeh.embed import json_item
from bokeh.plotting import Document, figure
from bokeh.resources import Resources
from bokeh.transform import linear_cmap
from PIL import Image

from common.plotting import CLASS_COLOURS, text_colour
from common.script import replacing

Array = np.ndarray
CLASSES, INKS = (
    list(range(len(CLASS_COLOURS))),
    [text_colour(colour) for colour in CLASS_COLOURS],
)
ACROSS, ZOOM = (
    64,
    2,
)  # images in a row of the sheet of all images, enlargement in the tooltip
STRETCH = {"sizing_mode": "stretch_both"}
BARE = {"tools": "", "toolbar_location": None, "outline_line_color": None, **STRETCH}
PAGE = Template("""<!DOCTYPE html>
<html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width"><title>$title</title><style>
  body { display: flex; flex-direction: column; min-height: 100vh }
  body { box-sizing: border-box; margin: 0; padding: 8px; font: 14px/1.35 sans-serif }
  h1 { font-size: 18px; margin: 0 }
  p { margin: 2px 0 }
  #said { position: sticky; top: 0; z-index: 9; padding: 4px 0 }
  #said { background: white; font-weight: bold }
  main { display: grid; flex: 1 0 620px }
  @media (max-width: 699px) { main { flex-basis: 2000px } }
</style>
<script>$bokeh</script><h1>$title</h1><p>The dots are $count of the test images: all
$wrong that the network gets wrong (grey rim; $error&nbsp;% of all) and a random part of
the others, with numbers at the medians of the classes. Point at a dot to see its image;
click or drag to select, Escape to clear, scroll to zoom. “Only errors” colours rims and
bars by the network's answer.</p><p id="said" aria-live="polite">&nbsp;</p>
<main id="page"></main><script>(async () => {
  const blob = await (await fetch("$sheet")).blob();
  const image = await createImageBitmap(blob), {width, height} = image;
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.drawImage(image, 0, 0);
  window.sheet = {width, rgba: context.getImageData(0, 0, width, height).data};
  document.body.style.setProperty("--sheet", "url(" + URL.createObjectURL(blob) + ")");
  await Bokeh.embed.embed_item($item, "page");
})();</script></html>
""")
# Dots under the pointer are listed in the order in which they are drawn: the last one
# covers the others.
TOOLTIP = f"""<div style="display: flex; gap: 6px; font: 12px/18px sans-serif;
    white-space: nowrap"><style>:host {{ opacity: 1 }}
    .bk-tooltip-content > div > div:not(:last-child) {{ display: none }}</style>
  <div style="width: {28 * ZOOM}px; height: {28 * ZOOM}px; filter: invert(1);
    image-rendering: pixelated; background: var(--sheet) calc(-{ZOOM}px * @left)
    calc(-{ZOOM}px * @top) / {28 * ZOOM * ACROSS}px auto"></div>
  <div>label <b>@label</b><br>network <b>@answer</b>, @sure{{0.0}} %<br>
    image @number</div>
</div>"""
MARK = """const seen = cb_data.index.indices.slice(-1), {indices} = digits.selected;
marked.indices = seen.length == 0 && indices.length == 1 ? indices : seen;"""
FILTER = """const {label, wrong} = digits.data;
named.indices = classes.active;
shown.indices = [...label.keys()].filter(
  i => classes.active.includes(label[i]) && (wrong[i] || !errors.active));
digits.selected.indices = digits.selected.indices.filter(
  i => shown.indices.includes(i));"""
STEP = """const found = shown.indices.filter(i => digits.data.wrong[i]);
const [now = -1] = digits.selected.indices;
const next = forward
  ? found.find(i => i > now) ?? found[0]
  : found.findLast(i => i < now) ?? found.at(-1);
digits.selected.indices = found.length ? [next] : [];"""
SUMMARY = """const {data, selected: {indices}} = digits;
const {number} = bars.data, {rgba, width} = window.sheet;
const chosen = indices.length ? indices : shown.indices;
const mean = picture.data.image[0].fill(0);
const weight = chosen.reduce((sum, i) => sum + data.weight[i], 0);
const wrong = chosen.filter(i => data.wrong[i]);
for (const i of chosen)
  for (let k = 0; k < mean.length; k++) {
    const row = data.top[i] + Math.floor(k / 28), column = data.left[i] + k % 28;
    mean[k] += rgba[4 * (row * width + column)] * data.weight[i] / weight;
  }
picture.change.emit();
const [i] = chosen, one = chosen.length == 1;
const group = errors.active ? data.answer : data.label;
const weigh = images => number.map(
  k => images.reduce((sum, i) => sum + data.weight[i] * (group[i] == k), 0));
const share = one ? number.map(k => data["p" + k][i]) : weigh(chosen);
const whole = value => value.toLocaleString("en", {maximumFractionDigits: 0});
const text = share.map(one ? p => (100 * p).toFixed(1) + " %" : whole);
const dark = weigh(one || errors.active ? [] : wrong);
bars.data = {...bars.data, share, text, wrong: dark};
marked.indices = indices.length == 1 ? indices : [];
const many = errors.active ? "errors by answer" : "black: wrong";
title.text = one ? "probabilities" : many;
document.getElementById("said").textContent = one
  ? `Image ${data.number[i]}: label ${data.label[i]}, network ${data.answer[i]}, ` +
    `${text[data.answer[i]]} sure`
  : `${whole(chosen.length)} dots stand for ${whole(weight)} images; ` +
    `the network gets ${whole(wrong.length)} wrong`;"""
PRESSED = """const buttons = toggle =>
  Bokeh.index.find_one(toggle).el.shadowRoot.querySelectorAll("button");
buttons(classes).forEach(
  (button, k) => { button.ariaPressed = classes.active.includes(k); });
buttons(errors)[0].ariaPressed = errors.active;"""
NAMES = """for (const each of figures)
  Object.assign(
    Bokeh.index.find_one(each).el, {role: "img", ariaLabel: each.name});"""
ESCAPE = """addEventListener(
  "keydown", ({key}) => { if (key == "Escape") digits.selected.indices = []; });"""
# In one column, a finger or the wheel scrolls the page until a tool is chosen.
COLUMNS = """const narrow = matchMedia("(max-width: 699px)");
narrow.onchange = () => {
  grid.children = grid.children.map(([each], k) =>
    narrow.matches ? [each, k, 0] : [each, Math.floor(k / 3), k % 3]);
  for (const tool of dragging) tool.active = !narrow.matches;
};
narrow.onchange();"""


class Space(NamedTuple):
    """One panel: points [N, 2], the numbers of the components that its axes show, their
    shares of the variance.
    """

    name: str
    points: Array
    components: Sequence[int]
    shares: Sequence[float]


def sprite_sheet(images: Array) -> str:
    """Return the data URL of one PNG that holds the images uint8 [M, 28, 28], 64 in a
    row.
    """
    padded = np.pad(images, [(0, -len(images) % ACROSS), (0, 0), (0, 0)])
    sheet = padded.reshape(-1, ACROSS, 28, 28).swapaxes(1, 2).reshape(-1, ACROSS * 28)
    Image.fromarray(sheet).save(file := io.BytesIO(), "png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def draw_panel(
    digits: bk.ColumnDataSource, labels: Array, space: Space, parts: dict[str, bk.Model]
) -> figure:
    """Draw one space: dots for the images `shown`, rings for those `marked`, numbers at
    the medians by labels [N].
    """
    name, (shown, marked, named) = (
        space.name,
        (bk.CDSView(filter=parts[key]) for key in ("shown", "marked", "named")),
    )
    dot = {
        "x": f"{name} x",
        "y": f"{name} y",
        "source": digits,
        "size": 5,
        "fill_color": None,
    }
    axes = figure(
        title=name,
        name=name,
        match_aspect=True,
        lod_threshold=None,
        min_width=200,
        min_height=200,
        **BARE,
    )
    axes.axis.minor_tick_line_color, axes.axis.axis_label_text_font_style = (
        None,
        "normal",
    )
    shares = zip(space.components, space.shares, strict=True)
    axes.xaxis.axis_label, axes.yaxis.axis_label = (
        f"PC {number} · {100 * share:.1f} %" for number, share in shares
    )
    # The ranges hold the dots of all classes, shown or not, so that the buttons of the
    # classes move nothing.
    axes.scatter(**dot, visible=False)
    fill, answer = (
        linear_cmap(column, CLASS_COLOURS, -0.5, 9.5) for column in ("label", "answer")
    )
    rim = linear_cmap("wrong", ("#00000000", "#606060"), 0, 1)
    dots = axes.scatter(
        **dot | {"fill_color": fill},
        view=shown,
        line_color=rim,
        line_width=0.7,
        alpha=0.85,
    )
    rims = axes.scatter(
        **dot | {"size": 7}, view=shown, line_color=answer, line_width=2, visible=False
    )
    parts["errors"].js_link("active", rims, "visible")
    members = [space.points[labels == k] for k in CLASSES]
    medians = np.array(
        [np.median(each, axis=0) if len(each) else (np.nan, np.nan) for each in members]
    )  # [10, 2]
    chip = {
        "text": [str(k) for k in CLASSES],
        "text_color": INKS,
        "background_fill_color": CLASS_COLOURS,
        "padding": 2,
    }
    chip |= {
        "text_font_size": "12px",
        "text_font_style": "bold",
        "border_line_color": "white",
        "border_radius": 3,
    }
    axes.text(*medians.T, view=named, anchor="center", **chip)
    # Alone on the overlay level, the rings move without a new drawing of the dots.
    ring = {
        "size": 14,
        "line_width": 2.5,
        "line_color": "black",
        "nonselection_alpha": 1,
    }
    axes.scatter(**dot | ring, view=marked, level="overlay")
    lasso, box = (
        tool(continuous=False, renderers=[dots])
        for tool in (bk.LassoSelectTool, bk.BoxSelectTool)
    )
    click = bk.CustomJS(
        args=parts, code="digits.selected.indices = digits.selected.indices.slice(-1);"
    )
    tap, mark = (
        bk.TapTool(mode="replace", renderers=[dots], callback=click),
        bk.CustomJS(args=parts, code=MARK),
    )
    hover = bk.HoverTool(tooltips=TOOLTIP, renderers=[dots], callback=mark)
    axes.add_tools(lasso, box, bk.PanTool(), wheel := bk.WheelZoomTool(), tap, hover)
    axes.toolbar.update(active_drag=lasso, active_scroll=wheel, active_tap=tap)
    return axes


def draw_summary() -> tuple[bk.Row, dict[str, bk.Model]]:
    """Draw the last place, still empty; return it and the models that SUMMARY fills."""
    bars = bk.ColumnDataSource(
        {"colour": CLASS_COLOURS}
        | dict.fromkeys(("number", "share", "wrong", "text"), CLASSES)
    )
    left = figure(
        title="image or mean",
        name="mean image",
        match_aspect=True,
        min_width=90,
        min_height=100,
        **BARE,
    )
    ink = bk.LinearColorMapper(
        palette=[f"#{k:02x}{k:02x}{k:02x}" for k in range(255, -1, -1)], low=0, high=255
    )
    picture = left.image(
        [np.zeros((28, 28))],
        x=0,
        y=0,
        dw=28,
        dh=28,
        origin="top_left",
        color_mapper=ink,
    ).data_source
    span = {
        "x_range": bk.DataRange1d(start=0, range_padding=0.8),
        "y_range": (9.6, -0.6),
    }  # with room for the texts
    right = figure(
        title=" ", name="bars", min_width=110, min_height=100, **span, **BARE
    )
    right.hbar("number", right="share", height=0.8, color="colour", source=bars)
    right.hbar("number", right="wrong", height=0.8, color="black", source=bars)
    right.text(
        "share",
        "number",
        x_offset=4,
        text_baseline="middle",
        text_font_size="11px",
        source=bars,
    )
    left.axis.visible = left.grid.visible = right.xaxis.visible = right.grid.visible = (
        False
    )
    right.yaxis.ticker = CLASSES
    return bk.Row(left, right, **STRETCH), {
        "picture": picture,
        "bars": bars,
        "title": right.title,
    }


def class_buttons() -> bk.CheckboxButtonGroup:
    """Return the buttons 0 … 9 in the colours of the classes: they are the legend as
    well.
    """
    own = (
        ".bk-btn { box-shadow: inset 0 -4px var(--bg) } "
        ".bk-btn.bk-active { background: var(--bg); color: var(--fg) }"
    )
    rules = [
        f".bk-btn:nth-child({k + 1}) {{ --bg: {CLASS_COLOURS[k]}; --fg: {INKS[k]} }}"
        for k in CLASSES
    ]
    return bk.CheckboxButtonGroup(
        labels=[str(k) for k in CLASSES], active=CLASSES, stylesheets=[own, *rules]
    )


def save_page(
    path: Path,
    spaces: Sequence[Space],
    images: Array,
    labels: Array,
    probabilities: Array,
    title: str,
    shown: Array,
) -> None:
    """Write the page: the images `shown` [K], as indices, and every image that the
    network gets wrong, in five spaces.

    `images` are uint8 [N, 28, 28], `labels` integers [N] and `probabilities` the
    network's [N, 10].
    """
    answers = probabilities.argmax(axis=1)
    wrong = answers != labels
    numbers = np.union1d(shown, np.flatnonzero(wrong)).astype(
        int
    )  # [M], ascending: STEP needs it
    right, sampled = (
        np.bincount(labels[each][~wrong[each]], minlength=10)
        for each in (slice(None), numbers)
    )
    weight = np.where(
        wrong, 1, (right / np.maximum(sampled, 1))[labels]
    )  # how many images a dot stands for
    values = {
        "number": np.arange(len(labels)),
        "label": labels,
        "answer": answers,
        "wrong": wrong,
        "weight": weight,
    }
    values |= {
        "sure": 100 * probabilities.max(axis=1),
        **{f"p{k}": probabilities[:, k] for k in CLASSES},
    }
    values |= {
        f"{space.name} {axis}": space.points[:, k]
        for space in spaces
        for k, axis in enumerate("xy")
    }
    top, left = 28 * np.array(divmod(np.arange(len(numbers)), ACROSS))  # in the sheet
    columns = {name: each[numbers] for name, each in values.items()} | {
        "top": top,
        "left": left,
    }
    digits = bk.ColumnDataSource(
        {name: each.astype(np.float32) for name, each in columns.items()}
    )
    place, parts = draw_summary()
    classes, errors, rows = (
        class_buttons(),
        bk.Toggle(label="only errors"),
        [*range(len(numbers))],
    )
    parts |= {
        "digits": digits,
        "classes": classes,
        "errors": errors,
        "named": bk.IndexFilter(CLASSES),
    }
    parts |= {"shown": bk.IndexFilter(rows), "marked": bk.IndexFilter([])}
    panels = [draw_panel(digits, labels, space, parts) for space in spaces]
    tools = [
        bk.ToolProxy(tools=list(same))
        for same in zip(*(each.tools for each in panels), strict=True)
    ]
    toolbar = bk.Toolbar(
        tools=tools,
        logo=None,
        active_drag=tools[0],
        active_scroll=tools[3],
        active_tap=tools[4],
    )
    cells = [(each, *divmod(number, 3)) for number, each in enumerate([*panels, place])]
    grid = bk.GridPlot(
        children=cells,
        toolbar=toolbar,
        toolbar_location="right",
        cols="1fr",
        rows="1fr",
        **STRETCH,
    )
    parts |= {
        "figures": [*panels, *place.children],
        "grid": grid,
        "dragging": [tools[0], tools[3]],
    }
    codes = SUMMARY, FILTER, PRESSED, NAMES, ESCAPE, COLUMNS
    summary, choose, pressed, *others = (
        bk.CustomJS(args=parts, code=code) for code in codes
    )
    classes.js_on_change("active", choose, pressed)
    errors.js_on_change("active", choose, pressed)
    parts["shown"].js_on_change("indices", summary)
    digits.selected.js_on_change("indices", summary)
    actions = {
        "all": bk.SetValue(obj=classes, attr="active", value=CLASSES),
        "none": bk.SetValue(obj=classes, attr="active", value=[]),
        "previous error": bk.CustomJS(args=parts | {"forward": False}, code=STEP),
        "next error": bk.CustomJS(args=parts | {"forward": True}, code=STEP),
        "reset view": bk.CustomJS(
            args=parts, code="for (const each of figures) each.reset.emit();"
        ),
    }
    buttons = [
        bk.Button(label=label, js_event_callbacks={"button_click": [each]})
        for label, each in actions.items()
    ]
    document = Document()
    row = bk.Row(
        classes, *buttons[:2], errors, *buttons[2:], styles={"flex-wrap": "wrap"}
    )
    document.add_root(bk.Column(row, grid, **STRETCH))
    document.js_on_event("document_ready", summary, pressed, *others)
    item = json.dumps(json_item(document.roots[0]), ensure_ascii=False)
    item = item.replace("</", "<\\/")  # a tag in a name must not end the script
    # Bokeh numbers the models of a process in one row; here those of each page start at
    # 0.
    for number, name in enumerate(dict.fromkeys(re.findall(r'"id": "([^"]+)"', item))):
        item = item.replace(f'"{name}"', f'"m{number}"')
    bokeh = "\n".join(
        Resources(
            "inline", components=["bokeh", "bokeh-widgets"], log_level="error"
        ).js_raw
    )
    fields = {
        "title": html.escape(title),
        "count": f"{len(numbers):,}",
        "wrong": f"{wrong.sum():,}",
        "bokeh": bokeh,
    }
    fields |= {
        "error": f"{100 * wrong.mean():.2f}",
        "sheet": sprite_sheet(images[numbers]),
        "item": item,
    }
    with replacing(path) as temporary:
        temporary.write_text(PAGE.substitute(fields), encoding="utf-8", newline="\n")
