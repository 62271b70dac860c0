// What readers do with structures: turn, move and magnify them, measure, choose frames.

class Viewer extends Drawing {
  constructor(root, data) {
    super(root, data);
    this.pointers = new Map();
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "img");
    this.canvas.setAttribute("aria-label", `${root.querySelector("figcaption").textContent}; arrow keys turn it`);
    this.readout = document.createElement("div");
    this.readout.className = "readout";
    this.stage.replaceChildren(this.canvas, this.readout);
    this.load(0);
    this.controls();
    this.listen();
    new ResizeObserver(() => this.draw()).observe(this.stage);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  rotate(dx, dy) {
    this.rotation = multiply(multiply(turn("x", dy), turn("y", dx)), this.rotation);
    this.draw();
  }

  magnify(factor) { this.zoom = Math.min(40, Math.max(0.2, this.zoom * factor)); this.draw(); }

  listen() {
    const canvas = this.canvas, held = this.pointers;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      held.set(event.pointerId, event);
      this.moved = 0;
    });
    canvas.addEventListener("pointermove", (event) => {
      const before = held.get(event.pointerId);
      if (!before) { this.show(event); return; }
      const [dx, dy] = [event.clientX - before.clientX, event.clientY - before.clientY];
      this.moved += Math.abs(dx) + Math.abs(dy);
      const others = [...held.values()].filter((other) => other.pointerId !== event.pointerId);
      if (others.length) {
        const apart = (p) => Math.hypot(p.clientX - others[0].clientX, p.clientY - others[0].clientY) || 1;
        this.magnify(apart(event) / apart(before));
      }
      if (others.length || event.shiftKey || event.buttons & 6) {
        const share = others.length ? 0.5 : 1;
        this.pan = [this.pan[0] + share * dx, this.pan[1] + share * dy];
        this.draw();
      } else this.rotate(0.009 * dx, 0.009 * dy);
      held.set(event.pointerId, event);
    });
    const release = (event) => {
      if (held.delete(event.pointerId) && event.type === "pointerup" && this.moved < 4) this.pick(event);
    };
    canvas.addEventListener("pointerup", release);
    canvas.addEventListener("pointercancel", release);
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("dblclick", () => { this.home(); this.picked = []; this.show(); this.draw(); });
    canvas.addEventListener("wheel", (event) => { // the page scrolls on until the picture was clicked
      if (document.activeElement !== canvas && !event.ctrlKey) return;
      event.preventDefault();
      this.magnify(Math.exp(-0.0015 * event.deltaY));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const step = 0.12, turns = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
      const turned = turns[event.key];
      const factor = { "+": 1.15, "=": 1.15, "-": 1 / 1.15 }[event.key];
      if (turned) this.rotate(step * turned[0], step * turned[1]);
      else if (factor) this.magnify(factor);
      else return;
      event.preventDefault();
    });
  }

  under(event) { // the foremost atom at a pointer
    const frame = this.canvas.getBoundingClientRect(), size = this.bonds ? BALL : SPHERE;
    const [x, y] = [event.clientX - frame.left, event.clientY - frame.top];
    const covers = ([u, v, , scale, i]) => Math.hypot(u - x, v - y) < size * this.data.radii[this.kinds[i]] * scale;
    const hit = (this.seen ?? []).filter(covers);
    return hit.length ? hit.reduce((a, b) => (b[2] > a[2] ? b : a))[4] : null;
  }

  name(i) { // an image has the name of its atom
    const images = this.data.images[this.data.collection ? this.frame : 0];
    return `${this.data.symbols[this.kinds[i]]} ${i < this.n ? i : images[i - this.n][0]}`;
  }

  show(event) { // the atom under the pointer, or what was measured
    const i = event ? this.under(event) : null;
    const at = (k) => this.points[this.picked[k]];
    let text = i === null ? "" : `${this.name(i)} at ${this.points[i].map((x) => x.toFixed(3)).join(", ")} Å`;
    if (!text && this.picked.length === 1) text = `${this.name(this.picked[0])}: click a second atom for the distance`;
    if (!text && this.picked.length === 2) text = `${Math.hypot(...minus(at(0), at(1))).toFixed(3)} Å`;
    if (!text && this.picked.length === 3) {
      const cosine = dot(unit(minus(at(0), at(1))), unit(minus(at(2), at(1))));
      text = `${(Math.acos(Math.max(-1, Math.min(1, cosine))) * 180 / Math.PI).toFixed(2)}°`;
    }
    if (i === null && this.picked.length > 1) text = `${this.picked.map((k) => this.name(k)).join(" – ")}: ${text}`;
    this.readout.textContent = text;
  }

  pick(event) {
    const i = this.under(event);
    if (i === null || this.picked.includes(i)) this.picked = [];
    else this.picked = this.picked.length === 3 ? [i] : [...this.picked, i];
    this.show(this.picked.length > 1 ? undefined : event);
    this.draw();
  }

  look(direction, up) { // toward the reader, and upward
    const z = unit(direction), x = unit(cross(up, z));
    this.rotation = [...x, ...cross(z, x), ...z];
    this.draw();
  }

  controls() {
    const tools = document.createElement("div");
    tools.className = "tools";
    const button = (label, title, act, pressed) => {
      const made = document.createElement("button");
      Object.assign(made, { type: "button", className: "tool", textContent: label, title });
      if (pressed !== undefined) made.setAttribute("aria-pressed", pressed);
      made.addEventListener("click", () => act(made));
      tools.append(made);
    };
    const switched = (made, name) => {
      this[name] = !this[name];
      made.setAttribute("aria-pressed", this[name]);
      this.draw();
    };
    button("Reset", "As it was at first; or double-click", () => { this.home(); this.draw(); });
    const axis = (k) => (this.lattice ?? [1, 0, 0, 0, 1, 0, 0, 0, 1]).slice(3 * k, 3 * k + 3);
    (this.cell ? ["a", "b", "c"] : ["x", "y", "z"]).forEach((name, k) => {
      button(name, `Look along ${name}`, () => this.look(axis(k), axis(k === 2 ? 1 : 2)));
    });
    button("Bonds", "Show bonds", (made) => switched(made, "bonds"), this.bonds);
    if (this.cell) button("Cell", "Show the cell", (made) => switched(made, "cell"), true);
    button("PNG", "Save the picture", () => {
      const link = document.createElement("a");
      link.download = `${this.root.querySelector("figcaption strong")?.textContent ?? "structure"}.png`;
      link.href = this.canvas.toDataURL("image/png");
      link.click();
    });
    this.stage.after(tools);
    if (this.data.sizes.length > 1) this.stage.after(this.slider());
    else if (this.modes.length) this.stage.after(this.chooser());
    this.canvas.title = "Drag to turn, Shift-drag to move; click, then wheel or +/− to zoom; click atoms to measure";
  }

  slider() { // frames
    const last = this.data.sizes.length - 1, range = document.createElement("input");
    const { row, play, label } = this.player(() => go((this.frame + 1) % (last + 1)), 6000 / last);
    Object.assign(range, { type: "range", min: 0, max: last, value: 0 });
    range.setAttribute("aria-label", "Frame");
    const go = (frame) => {
      range.value = frame;
      label.textContent = this.data.labels[frame];
      if (this.data.collection) this.picked = [];
      this.load(frame);
    };
    range.addEventListener("input", () => { this.stop(play); go(Number(range.value)); });
    play.after(range);
    label.textContent = this.data.labels[0];
    return row;
  }

  chooser() { // modes of vibration
    const select = document.createElement("select"), { row, play } = this.player(() => {
      this.phase += 0.35;
      this.load(0);
    }, 40);
    select.setAttribute("aria-label", "Mode");
    this.data.mode_labels.forEach((text, k) => select.add(new Option(text, k)));
    this.mode = 0;
    select.addEventListener("change", () => { this.mode = Number(select.value); this.load(0); });
    play.after(select);
    return row;
  }

  player(step, pause) { // a button that runs and stops `step`
    const [row, play, label] = ["div", "button", "output"].map((tag) => document.createElement(tag));
    row.className = "time";
    Object.assign(play, { type: "button", className: "tool play", textContent: "Play" });
    play.addEventListener("click", () => {
      if (this.timer) { this.stop(play); return; }
      play.textContent = "Pause";
      this.timer = setInterval(step, Math.max(40, Math.min(250, pause)));
    });
    row.append(play, label);
    return { row, play, label };
  }

  stop(play) {
    clearInterval(this.timer);
    this.timer = null;
    play.textContent = "Play";
  }
}

for (const root of document.querySelectorAll("figure.viewer")) {
  const block = root.querySelector("script[type='application/json']");
  if (block) root.viewer = new Viewer(root, JSON.parse(block.textContent));
}
