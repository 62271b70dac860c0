// Structures on a canvas: spheres, bonds and the cell, sorted by depth.
// pictures.py draws the same without scripts; sizes, bonds and colors are to agree.

const BALL = 0.42, SPHERE = 0.78; // radii of atoms in covalent ones, with bonds and without
const BOND = 1.15, STICK = 0.11; // longest bond in sums of covalent radii; its own radius in Å
const AMPLITUDE = 0.45; // Å, of the atom that moves most in a mode
const LEVELS = 8, FOG = 0.45; // steps from near to far, and how much of the background what is farthest has
const CROWD = 4000; // of more atoms, bonds are drawn plainly
const EDGES = [...Array(8).keys()].flatMap((i) => [1, 2, 4].filter((bit) => !(i & bit)).map((bit) => [i, i | bit]));
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const multiply = (a, b) =>
  a.map((_, k) => [0, 1, 2].reduce((sum, l) => sum + a[k - (k % 3) + l] * b[3 * l + (k % 3)], 0));
const turn = (axis, angle) => {
  const c = Math.cos(angle), s = Math.sin(angle);
  return axis === "x" ? [1, 0, 0, 0, c, -s, 0, s, c] : [c, 0, s, 0, 1, 0, -s, 0, c];
};
const unit = (v) => { const n = Math.hypot(...v) || 1; return v.map((x) => x / n); };
const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const minus = (a, b) => a.map((x, k) => x - b[k]);
const mix = (a, b, part) => "#" + [1, 3, 5].map((k) => { // of two colors, as #rrggbb
  const [x, y] = [a, b].map((color) => parseInt(color.slice(k, k + 2), 16));
  return Math.round(x + part * (y - x)).toString(16).padStart(2, "0");
}).join("");

const sphere = (color, size) => { // drawn once, then only copied
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = size;
  const pen = canvas.getContext("2d");
  const light = pen.createRadialGradient(0.34 * size, 0.3 * size, 0, 0.5 * size, 0.5 * size, 0.5 * size);
  [[0, 0.95], [0.18, 0.55], [0.5, 0], [0.85, -0.22], [1, -0.58]].forEach(([place, amount]) => {
    light.addColorStop(place, mix(color, amount < 0 ? "#000000" : "#ffffff", Math.abs(amount)));
  });
  pen.fillStyle = light;
  pen.beginPath();
  pen.arc(size / 2, size / 2, size / 2 - 0.5, 0, 2 * Math.PI);
  pen.fill();
  return canvas;
};

class Drawing {
  constructor(root, data) {
    this.root = root;
    this.data = data;
    this.every = [...bytes(data.kinds)]; // of all structures of a collection, or of one frame
    this.packed = new Uint16Array(bytes(data.positions).buffer);
    this.modes = data.modes.map((text) => new Int8Array(bytes(text).buffer)); // in parts of 127 of the largest
    Object.assign(this, { bonds: data.bonds, cell: data.cells.some((cell) => cell), picked: [], mode: null, phase: 0 });
    this.stage = root.querySelector(".stage");
    this.canvas = document.createElement("canvas");
    this.home();
  }

  home() { this.rotation = this.data.rotation.slice(); this.zoom = 1; this.pan = [0, 0]; }

  load(frame) { // atoms of a frame, images of those on the boundary behind them
    const { low, step, cells, sizes, collection } = this.data, images = this.data.images[collection ? frame : 0];
    const first = sizes.slice(0, frame).reduce((a, b) => a + b, 0), start = 3 * first;
    this.n = sizes[frame];
    this.kinds = collection ? this.every.slice(first, first + this.n) : this.every.slice();
    for (const [index] of images) this.kinds.push(this.kinds[index]);
    const mode = this.modes[this.mode], swing = mode ? AMPLITUDE / 127 * Math.sin(this.phase) : 0;
    const position = (i, k) => low[k] + step * this.packed[start + 3 * i + k] + (mode ? swing * mode[3 * i + k] : 0);
    this.frame = frame;
    this.lattice = cells.length ? cells[Math.min(frame, cells.length - 1)] : null;
    this.points = [];
    for (let i = 0; i < this.n; i++) this.points.push([0, 1, 2].map((k) => position(i, k)));
    for (const [index, ...shift] of images) {
      const vector = this.along(shift);
      this.points.push(this.points[index].map((x, k) => x + vector[k]));
    }
    this.corners = this.lattice ? [...Array(8).keys()].map((i) => this.along([(i >> 2) & 1, (i >> 1) & 1, i & 1])) : [];
    if (!this.center || collection) this.fit();
    this.pairs = null;
    this.draw();
  }

  fit() { // middle and size of what is drawn, kept for all frames of a trajectory
    const every = [...this.points, ...this.corners];
    if (!every.length) every.push([0, 0, 0]);
    const ends = (pick, k) => every.map((p) => p[k]).reduce((a, b) => pick(a, b));
    this.center = [0, 1, 2].map((k) => (ends(Math.min, k) + ends(Math.max, k)) / 2);
    const far = every.map((p) => Math.hypot(...p.map((x, k) => x - this.center[k]))).reduce((a, b) => Math.max(a, b));
    this.extent = Math.max(far + 0.8 * Math.max(...this.data.radii), 1.5);
  }

  along(shift) {
    return [0, 1, 2].map((k) => [0, 1, 2].reduce((sum, l) => sum + shift[l] * this.lattice[3 * l + k], 0));
  }

  bonded() { // pairs closer than BOND sums of radii, found through boxes as wide as the longest bond
    const { radii } = this.data, width = 2 * BOND * Math.max(...radii), boxes = new Map(), found = [];
    const box = (p) => p.map((x) => Math.floor(x / width));
    this.points.forEach((p, i) => {
      const key = box(p).join();
      if (!boxes.has(key)) boxes.set(key, []);
      boxes.get(key).push(i);
    });
    this.points.forEach((p, i) => {
      const [a, b, c] = box(p);
      for (let k = 0; k < 27; k++) {
        const near = [a + (k % 3) - 1, b + (Math.floor(k / 3) % 3) - 1, c + Math.floor(k / 9) - 1].join();
        for (const j of boxes.get(near) ?? []) {
          const limit = BOND * (radii[this.kinds[i]] + radii[this.kinds[j]]), q = this.points[j];
          const d = Math.hypot(p[0] - q[0], p[1] - q[1], p[2] - q[2]);
          if (j > i && d < limit && d > 0.1) found.push([i, j]);
        }
      }
    });
    return found;
  }

  draw() { this.waiting ??= requestAnimationFrame(() => { this.waiting = null; this.paint(); }); }

  place(point) { // on the screen: x, y, depth toward the reader in Å, pixels per Å there
    const [x, y, z] = point.map((value, k) => value - this.center[k]), r = this.rotation;
    const depth = r[6] * x + r[7] * y + r[8] * z, scale = this.scale / (1 - depth / (5 * this.extent));
    return [this.width / 2 + this.pan[0] + scale * (r[0] * x + r[1] * y + r[2] * z),
      this.height / 2 + this.pan[1] - scale * (r[3] * x + r[4] * y + r[5] * z), depth, scale];
  }

  paint() {
    const ratio = window.devicePixelRatio || 1;
    [this.width, this.height] = [this.stage.clientWidth, this.stage.clientHeight];
    if (!this.width) return;
    this.canvas.width = Math.round(this.width * ratio);
    this.canvas.height = Math.round(this.height * ratio);
    this.scale = 0.5 * Math.min(this.width, this.height) / this.extent * this.zoom;
    const pen = this.canvas.getContext("2d"), style = getComputedStyle(this.root);
    const [ink, back] = ["--muted", "--raised"].map((name) => style.getPropertyValue(name).trim());
    if (back !== this.back) Object.assign(this, { back, spheres: new Map(), tones: new Map() });
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.lineCap = "round";
    const size = this.bonds ? BALL : SPHERE, things = [];
    this.seen = this.points.map((p, i) => [...this.place(p), i]);
    for (const [x, y, depth, scale, i] of this.seen) {
      const radius = size * this.data.radii[this.kinds[i]] * scale;
      if (Math.abs(2 * x - this.width) > this.width + 2 * radius) continue;
      const picture = this.sphere(this.kinds[i], this.level(depth), radius * ratio);
      things.push([depth, () => {
        pen.drawImage(picture, x - radius, y - radius, 2 * radius, 2 * radius);
        if (this.picked.includes(i)) this.ring(pen, x, y, radius, style);
      }]);
    }
    if (this.bonds) {
      this.pairs ??= this.bonded();
      for (const [i, j] of this.pairs) { this.half(pen, i, j, things); this.half(pen, j, i, things); }
    }
    if (this.cell && this.lattice) this.edges(pen, ink, things);
    things.sort((a, b) => a[0] - b[0]);
    for (const [, drawThing] of things) drawThing();
    if (this.lattice) this.axes(pen, ink);
  }

  level(depth) { return Math.max(0, Math.min(LEVELS - 1, Math.floor(LEVELS * (0.5 - 0.5 * depth / this.extent)))); }

  color(kind, level) { return mix(this.data.colors[kind], this.back, FOG * level / (LEVELS - 1)); } // far is paler

  sphere(kind, level, radius) {
    const size = radius < 8 ? 24 : radius < 24 ? 64 : 192, key = (kind * LEVELS + level) * 256 + size;
    if (!this.spheres.has(key)) this.spheres.set(key, sphere(this.color(kind, level), size));
    return this.spheres.get(key);
  }

  ring(pen, x, y, radius, style) {
    pen.strokeStyle = style.getPropertyValue("--accent");
    pen.lineWidth = 2.5;
    pen.beginPath();
    pen.arc(x, y, radius + 1.5, 0, 2 * Math.PI);
    pen.stroke();
  }

  half(pen, i, j, things) { // of a bond, in the color of its atom
    const [x, y, z, scale] = this.seen[i], [X, Y, Z] = this.seen[j], depth = 0.7 * z + 0.3 * Z;
    const key = this.kinds[i] * LEVELS + this.level(depth);
    if (!this.tones.has(key)) {
      const color = this.color(this.kinds[i], this.level(depth));
      const parts = [["#000000", 0.55, 2], ["#000000", 0.15, 1.6], ["#ffffff", 0.35, 0.6]];
      this.tones.set(key, parts.map(([other, part, width]) => [mix(color, other, part), width]));
    }
    const tones = this.tones.get(key).slice(0, this.n > CROWD ? 1 : 3);
    things.push([depth, () => {
      for (const [tone, width] of tones) {
        pen.strokeStyle = tone;
        pen.lineWidth = width * STICK * scale;
        pen.beginPath();
        pen.moveTo(x, y);
        pen.lineTo((x + X) / 2, (y + Y) / 2);
        pen.stroke();
      }
    }]);
  }

  edges(pen, ink, things) { // in pieces, so that atoms hide what is behind them
    for (const [first, second] of EDGES) {
      const [a, b] = [this.corners[first], this.corners[second]], pieces = 12;
      for (let k = 0; k < pieces; k++) {
        const [p, q] = [k, k + 1].map((m) => this.place(a.map((x, l) => x + (b[l] - x) * m / pieces)));
        things.push([(p[2] + q[2]) / 2, () => {
          pen.strokeStyle = ink;
          pen.lineWidth = 1.2;
          pen.beginPath();
          pen.moveTo(p[0], p[1]);
          pen.lineTo(q[0], q[1]);
          pen.stroke();
        }]);
      }
    }
  }

  axes(pen, ink) { // directions of the lattice vectors, in the corner
    const x = this.width - 40, y = this.height - 38, r = this.rotation;
    pen.font = "600 12px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    ["a", "b", "c"].forEach((name, k) => {
      const v = unit(this.lattice.slice(3 * k, 3 * k + 3)), [dx, dy] = [dot(v, r.slice(0, 3)), -dot(v, r.slice(3, 6))];
      pen.strokeStyle = pen.fillStyle = ink;
      pen.lineWidth = 1.6;
      pen.beginPath();
      pen.moveTo(x, y);
      pen.lineTo(x + 20 * dx, y + 20 * dy);
      pen.stroke();
      pen.fillText(name, x + 29 * dx, y + 29 * dy);
    });
  }
}
