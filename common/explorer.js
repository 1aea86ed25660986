// explorer.html sets COLOURS, INKS and PAGE, whose panels call point, tap and choose
const get = id => document.getElementById(id);
const find = name => Bokeh.documents[0].get_model_by_name(name);
let data; // the columns of the digits
let current; // the row of the image that is shown
let error = -1; // the row of the last error that was shown

// Styles: the colours of a class, the place of an image in the picture of all images
const colours = label => `--colour: ${COLOURS[label]}; --ink: ${INKS[label]}`;
const place = row => `--left: ${row % 64}; --top: ${Math.floor(row / 64)}`;

function describe(row) {
  const sure = 100 * data.probability[10 * row + data.answer[row]];
  return `image ${data.number[row]} is labelled ${data.label[row]}, ` +
    `the network says ${data.answer[row]} (${sure.toFixed(1)} %)`;
}

// Links to images, framed by their labels; those of errors name the answer, too
function thumbnails(rows) {
  const links = [];
  for (const row of rows) {
    const label = data.label[row];
    const name = data.wrong[row] ? `${label}→${data.answer[row]}` : label;
    links.push(`<a class="digit" href="#${data.number[row]}" data-label="${name}"
      title="${describe(row)}" aria-label="${describe(row)}"
      style="${place(row)}; ${colours(label)}"></a>`);
  }
  return links.join("");
}

function bars(row) {
  const all = [];
  for (let k = 0; k < 10; k++) {
    const share = (100 * data.probability[10 * row + k]).toFixed(1);
    all.push(`<div style="${colours(k)}">${share == "0.0" ? "&nbsp;" : share}
      <div class="track"><i style="height: ${share}%"></i></div>${k}</div>`);
  }
  return all.join("");
}

// Show one image: the network's probabilities, and what is nearest in each space
function show(row) {
  current = row;
  if (data.wrong[row]) error = row;
  find("digits").selected.indices = [];
  find("focus").indices = [row];
  get("said").textContent = describe(row);
  get("number").value = data.number[row];
  get("picture").style = place(row);
  get("bars").innerHTML = bars(row);
  get("shown").className = "one";
  document.querySelectorAll(".nearest").forEach((strip, k) => {
    const nearest = data["nearest" + k].slice(5 * row, 5 * row + 5);
    strip.innerHTML = thumbnails(nearest);
  });
  location.hash = data.number[row];
}

// Show the image of a number, as in the address: #8
function go(text) {
  const row = data.number.indexOf(Number(text.slice(1)));
  if (row >= 0) show(row);
  else get("said").textContent = `${text} is not among the dots, still #${data.number[current]}`;
}

// List what was drawn around
function choose() {
  const rows = find("digits").selected.indices;
  if (rows.length == 0) return show(current);
  const wrong = rows.filter(row => data.wrong[row]).length;
  const shown = rows.slice(-200);
  get("said").textContent = `${rows.length} images, errors: ${wrong}, below: ${shown.length}`;
  get("many").innerHTML = thumbnails(shown.reverse());
  get("shown").className = "many";
}

// The last of the dots under a finger covers the others
function tap(rows) {
  for (const row of rows.slice(-1)) show(row);
}

function point(rows) {
  const seen = rows.slice(-1);
  get("tip").hidden = seen.length == 0;
  find("focus").indices = seen.length > 0 ? seen : [current];
  for (const row of seen)
    get("tip").innerHTML = `<div class="digit" style="${place(row)}"></div><br>` + describe(row);
}

function follow({clientX, clientY}) {
  get("tip").style.left = Math.min(clientX + 12, innerWidth - 210) + "px";
  get("tip").style.top = clientY + (clientY > innerHeight / 2 ? -130 : 12) + "px";
}

// Show the digits that are checked, all of them or the errors
function filter() {
  const checked = [...document.querySelectorAll("#classes input")].map(box => box.checked);
  const kept = [];
  data.label.forEach((label, row) => {
    if (checked[label] && (data.wrong[row] || !get("errors").checked)) kept.push(row);
  });
  find("shown").indices = kept;
  find("digits").selected.indices = [];
  const labels = [...new Set(data.label)].sort();
  find("classes").indices = [...labels.keys()].filter(k => checked[labels[k]]);
}

function check(all) {
  for (const box of document.querySelectorAll("#classes input")) box.checked = all;
  filter();
}

// Errors come in the order of the network's confidence
function next() {
  const errors = [...find("shown").indices].filter(row => data.wrong[row]);
  if (errors.length > 0) show(errors.find(row => row > error) || errors[0]);
  else get("said").textContent = "no error is shown";
}

// Until zoom is chosen, the wheel and a finger scroll the page
function activate() {
  const zoom = get("zoom").checked;
  for (const {toolbar: {tools}} of Bokeh.documents[0].roots()) {
    const [, , lasso, pan, wheel] = tools;
    lasso.active = !zoom && !matchMedia("(pointer: coarse)").matches;
    pan.active = zoom;
    wheel.active = zoom;
  }
}

async function start() {
  const roots = {};
  PAGE.roots.forEach(({id}, k) => { roots[id] = "panel" + k; });
  const item = {docid: "page", roots, root_ids: Object.keys(roots)};
  await Bokeh.embed.embed_items({page: PAGE}, [item]);
  data = find("digits").data;
  get("classes").innerHTML = COLOURS.map((_, k) => `<label style="${colours(k)}">
    <input type="checkbox" checked><span>${k}</span></label>`).join("");
  const figures = Bokeh.documents[0].roots();
  for (const each of figures) // the keyboard has nothing to do there
    Bokeh.index.find_one(each).canvas_view.events_el.removeAttribute("tabindex");
  get("controls").onchange = filter;
  get("all").onclick = () => check(true);
  get("none").onclick = () => check(false);
  get("next").onclick = next;
  get("number").onchange = () => go("#" + get("number").value);
  get("zoom").onchange = activate;
  get("reset").onclick = () => figures.forEach(each => each.reset.emit());
  addEventListener("pointermove", follow);
  addEventListener("keydown", ({key}) => { if (key == "Escape") show(current); });
  addEventListener("click", ({target}) => { if (target.hash) go(target.hash); });
  addEventListener("hashchange", () => { if (location.hash) go(location.hash); });
  filter();
  activate();
  const wanted = location.hash;
  next();
  if (wanted) go(wanted);
}

start();
