"""A page in which a browser shows the images behind the dots of five scatter plots.

Bokeh draws and links the panels; short callbacks in JavaScript do the rest. The page is one file that needs no network.
"""

from __future__ import annotations

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
from bokeh.document import Document
from bokeh.embed import json_item
from bokeh.plotting import figure
from bokeh.resources import Resources
from bokeh.transform import linear_cmap
from PIL import Image

from common.plotting import CLASS_COLOURS, text_colour
from common.script import replacing

CLASSES = list(range(len(CLASS_COLOURS)))
ACROSS, ZOOM = 64, 4  # images in a row of the sheet of all images, enlargement in the tooltip
STRETCH = {"sizing_mode": "stretch_both"}
BARE = {"tools": "", "toolbar_location": None, "outline_line_color": None, **STRETCH}
PAGE = Template("""<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><title>$title</title><style>
  html, body { height: 100%; margin: 0; box-sizing: border-box }
  body { display: grid; grid-template-rows: auto minmax(560px, 1fr); padding: 8px 12px; font: 14px/1.35 sans-serif }
  h1 { font-size: 18px; margin: 0 } p { margin: 2px 0 6px }</style>
<script>$bokeh</script>
<header><h1>$title</h1><p>The dots are $count of the test images: all $wrong that the network gets wrong (dark rim;
$error % of all) and a random part of the others. Point at a dot to see its image; click or drag to select dots in every
panel, Escape to clear; scroll to zoom.</p>
</header><main id="page"></main><script>(async () => {
  const blob = await (await fetch("$sheet")).blob(), image = await createImageBitmap(blob), {width, height} = image;
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.drawImage(image, 0, 0);
  window.sheet = {width, rgba: context.getImageData(0, 0, width, height).data};
  document.body.style.setProperty("--sheet", "url(" + URL.createObjectURL(blob) + ")");
  await Bokeh.embed.embed_item($item, "page");
  const digits = Bokeh.documents[0].get_model_by_name("digits");
  addEventListener("keydown", ({key}) => { if (key == "Escape") digits.selected.indices = []; });
})();</script></html>
""")
# Dots under the pointer are listed in the order in which they are drawn: the last one covers the others.
TOOLTIP = f"""<div style="display: flex; gap: 8px; align-items: center; font-size: 13px; line-height: 1.5">
  <style>.bk-tooltip-content > div > div:not(:last-child) {{ display: none }}</style>
  <div style="width: {28 * ZOOM}px; height: {28 * ZOOM}px; filter: invert(1); image-rendering: pixelated; background:
    var(--sheet) calc(-{ZOOM}px * @left) calc(-{ZOOM}px * @top) / {28 * ZOOM * ACROSS}px auto"></div>
  <div>label <b>@label</b><br>network <b>@answer</b>, @sure{{0.0}}% sure<br>image @number</div>
</div>"""
MARK = """const seen = cb_data.index.indices.slice(-1), {indices} = digits.selected;
marked.indices = seen.length == 0 && indices.length == 1 ? indices : seen;"""
CLICK = "digits.selected.indices = digits.selected.indices.slice(-1);"
FILTER = """const {label, wrong} = digits.data;
shown.indices = [...label.keys()].filter(i => classes.active.includes(label[i]) && (wrong[i] || !errors.active));
digits.selected.indices = digits.selected.indices.filter(i => shown.indices.includes(i));"""
SUMMARY = """const {data, selected: {indices}} = digits, {number} = bars.data, {rgba, width} = window.sheet;
const weigh = images => images.reduce((sum, i) => sum + data.weight[i], 0);
const chosen = indices.length ? indices : shown.indices, mean = picture.data.image[0].fill(0);
for (const i of chosen)
  for (let k = 0; k < mean.length; k++)
    mean[k] += rgba[4 * ((data.top[i] + Math.floor(k / 28)) * width + data.left[i] + k % 28)] / chosen.length;
picture.change.emit();
marked.indices = indices.length == 1 ? indices : [];
if (chosen.length == 1) {
  const [i] = chosen, share = number.map(k => data["p" + k][i]), text = share.map(p => (100 * p).toFixed(1) + "%");
  bars.data = {...bars.data, share, text, wrong: share.map(() => 0)};
  words.text = `Image ${data.number[i]}: label ${data.label[i]}, network ${data.answer[i]}<br>bars: its probabilities`;
} else {
  const members = number.map(k => chosen.filter(i => data.label[i] == k)), most = Math.max(1, ...members.map(weigh));
  const sizes = members.map(weigh), wrong = members.map(each => each.filter(i => data.wrong[i]).length);
  const text = sizes.map(size => size.toFixed(0));
  bars.data = {...bars.data, share: sizes.map(n => n / most), text, wrong: wrong.map(n => n / most)};
  words.text = `${chosen.length} dots ${indices.length ? "selected" : "shown"}, ${wrong.reduce((a, b) => a + b)} wrong;
    their mean<br>bars: estimates for all images (dark: wrong)`;
}"""


class Space(NamedTuple):
    """One panel: points [N, 2], the numbers of the components that its axes show, their shares of the variance."""

    name: str
    points: np.ndarray
    components: Sequence[int]
    shares: Sequence[float]


def sprite_sheet(images: np.ndarray) -> str:
    """Return the data URL of one PNG that holds the images uint8 [M, 28, 28], 64 in a row."""
    padded = np.pad(images, [(0, -len(images) % ACROSS), (0, 0), (0, 0)])
    sheet = padded.reshape(-1, ACROSS, 28, 28).swapaxes(1, 2).reshape(-1, ACROSS * 28)
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "png")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def draw_panel(digits: bk.ColumnDataSource, space: Space, parts: dict[str, bk.Model]) -> figure:
    """Draw one space: dots for the images `shown`, which alone can be selected, and rings for the images `marked`."""
    name = space.name
    place = {"x": f"{name} x", "y": f"{name} y", "source": digits}
    axes = figure(title=name, match_aspect=True, lod_threshold=None, min_width=200, min_height=200, **BARE)
    axes.axis.minor_tick_line_color, axes.axis.axis_label_text_font_style = None, "normal"
    axes.xaxis.axis_label, axes.yaxis.axis_label = (
        f"component {number} ({share:.1%} of the variance)"
        for number, share in zip(space.components, space.shares, strict=True)
    )
    # The ranges hold the outermost dots of all classes, shown or not, so that the buttons of the classes move nothing.
    outermost = [int(find(digits.data[place[axis]])) for axis in "xy" for find in (np.argmin, np.argmax)]
    axes.scatter(**place, view=bk.CDSView(filter=bk.IndexFilter(outermost)), visible=False)
    axes.x_range.range_padding = axes.y_range.range_padding = 0.06
    fill, rim = linear_cmap("label", CLASS_COLOURS, -0.5, 9.5), linear_cmap("wrong", ("#00000000", "black"), 0, 1)
    look = {"size": 5, "fill_color": fill, "line_color": rim, "alpha": 0.85, "nonselection_alpha": 0.12}
    dots = axes.scatter(**place, view=bk.CDSView(filter=parts["shown"]), **look)
    ring = {"size": 14, "line_width": 2.5, "line_color": "black", "fill_color": None, "nonselection_alpha": 1}
    axes.scatter(**place, view=bk.CDSView(filter=parts["marked"]), **ring)
    lasso, box, wheel = bk.LassoSelectTool(continuous=False), bk.BoxSelectTool(continuous=False), bk.WheelZoomTool()
    tap = bk.TapTool(mode="replace", callback=bk.CustomJS(args=parts, code=CLICK))
    hover = bk.HoverTool(tooltips=TOOLTIP, callback=bk.CustomJS(args=parts, code=MARK))
    for tool in (lasso, box, tap, hover):
        tool.renderers = [dots]
    axes.add_tools(lasso, box, bk.PanTool(), wheel, tap, hover, bk.ResetTool())
    axes.toolbar.update(active_drag=lasso, active_scroll=wheel, active_tap=tap)
    return axes


def draw_summary() -> tuple[bk.LayoutDOM, dict[str, bk.Model]]:
    """Draw the sixth place, still empty; return it and the models that SUMMARY fills."""
    words = bk.Div(sizing_mode="stretch_width", height=38, styles={"font-size": "13px"})
    picture = bk.ColumnDataSource({"image": [np.zeros((28, 28))]})
    bars = bk.ColumnDataSource({"colour": CLASS_COLOURS} | dict.fromkeys(("number", "share", "wrong", "text"), CLASSES))
    left = figure(match_aspect=True, min_width=90, min_height=100, **BARE)
    left.x_range.range_padding = left.y_range.range_padding = 0
    ink = bk.LinearColorMapper(palette=[f"#{k:02x}{k:02x}{k:02x}" for k in range(255, -1, -1)], low=0, high=255)
    left.image("image", x=0, y=0, dw=28, dh=28, origin="top_left", source=picture, color_mapper=ink)
    right = figure(x_range=(0, 1.4), y_range=(9.6, -0.6), min_width=110, min_height=100, **BARE)
    right.hbar("number", right="share", height=0.8, color="colour", source=bars)
    right.hbar("number", right="wrong", height=0.8, color="black", source=bars)
    right.text("share", "number", x_offset=4, text_baseline="middle", text_font_size="11px", source=bars)
    left.axis.visible = left.grid.visible = right.xaxis.visible = right.grid.visible = False
    right.yaxis.ticker = CLASSES
    parts = {"words": words, "picture": picture, "bars": bars}
    return bk.Column(words, bk.Row(left, right, **STRETCH), **STRETCH), parts


def class_buttons() -> bk.CheckboxButtonGroup:
    """Return the buttons 0 … 9 in the colours of the classes: they are the legend as well."""
    rules = ""
    for number, colour in enumerate(CLASS_COLOURS, 1):
        rules += f".bk-btn:nth-child({number}) {{ box-shadow: inset 0 -4px {colour} }}\n"
        rules += f".bk-btn:nth-child({number}).bk-active {{ background: {colour}; color: {text_colour(colour)} }}\n"
    return bk.CheckboxButtonGroup(labels=[str(k) for k in CLASSES], active=CLASSES, stylesheets=[rules])


def save_page(
    path: Path,
    spaces: Sequence[Space],
    images: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray,
    title: str,
    shown: np.ndarray,
) -> None:
    """Write the page: the images `shown` [K], as indices, and every image that the network gets wrong, in five spaces.

    `images` are uint8 [N, 28, 28], `labels` integers [N] and `probabilities` the network's [N, 10].
    """
    answers = probabilities.argmax(axis=1)
    wrong = answers != labels
    numbers = np.concatenate([shown, np.setdiff1d(np.flatnonzero(wrong), shown)]).astype(int)  # [M]
    right, sampled = (np.bincount(labels[each][~wrong[each]], minlength=10) for each in (slice(None), numbers))
    weight = np.where(wrong, 1, (right / np.maximum(sampled, 1))[labels])  # how many images a dot stands for
    values = {"number": np.arange(len(labels)), "label": labels, "answer": answers, "wrong": wrong, "weight": weight}
    values |= {"sure": 100 * probabilities.max(axis=1), **{f"p{k}": probabilities[:, k] for k in CLASSES}}
    values |= {f"{space.name} {axis}": space.points[:, k] for space in spaces for k, axis in enumerate("xy")}
    top, left = 28 * np.array(divmod(np.arange(len(numbers)), ACROSS))  # in the sheet
    columns = {name: each[numbers] for name, each in values.items()} | {"top": top, "left": left}
    digits = bk.ColumnDataSource({name: each.astype(np.float32) for name, each in columns.items()}, name="digits")

    place, parts = draw_summary()
    classes, errors = class_buttons(), bk.Toggle(label="only errors")
    every, none = bk.Button(label="all"), bk.Button(label="none")
    parts |= {"digits": digits, "classes": classes, "errors": errors}
    parts |= {"shown": bk.IndexFilter(list(range(len(numbers)))), "marked": bk.IndexFilter([])}
    summary, choose = bk.CustomJS(args=parts, code=SUMMARY), bk.CustomJS(args=parts, code=FILTER)
    classes.js_on_change("active", choose)
    errors.js_on_change("active", choose)
    parts["shown"].js_on_change("indices", summary)
    digits.selected.js_on_change("indices", summary)
    every.js_on_click(bk.SetValue(obj=classes, attr="active", value=CLASSES))
    none.js_on_click(bk.SetValue(obj=classes, attr="active", value=[]))
    panels = [draw_panel(digits, space, parts) for space in spaces]
    tools = [bk.ToolProxy(tools=list(same)) for same in zip(*(each.tools for each in panels), strict=True)]
    toolbar = bk.Toolbar(tools=tools, logo=None, active_drag=tools[0], active_scroll=tools[3], active_tap=tools[4])
    cells = [(each, *divmod(number, 3)) for number, each in enumerate([*panels, place])]
    grid = bk.GridPlot(children=cells, toolbar=toolbar, toolbar_location="right", cols="1fr", rows="1fr", **STRETCH)
    document = Document()
    document.add_root(bk.Column(bk.Row(classes, every, none, errors), grid, **STRETCH))
    document.js_on_event("document_ready", summary)
    item = json.dumps(json_item(document.roots[0])).replace("</", "<\\/")  # a tag in a name must not end the script
    # Bokeh numbers the models of a process in one row; here those of each page start at 0.
    for number, name in enumerate(dict.fromkeys(re.findall(r'"id": "([^"]+)"', item))):
        item = item.replace(f'"{name}"', f'"m{number}"')
    scripts = Resources("inline", components=["bokeh", "bokeh-widgets"], log_level="error").js_raw
    fields = {"title": html.escape(title), "count": f"{len(numbers):,}", "bokeh": "\n".join(scripts)}
    fields |= {"wrong": f"{wrong.sum():,}", "error": f"{100 * wrong.mean():.2f}"}
    fields |= {"sheet": sprite_sheet(images[numbers]), "item": item}
    with replacing(path) as temporary:
        temporary.write_text(PAGE.substitute(fields), encoding="utf-8", newline="\n")
