"use strict";
// The time line of a report: scrubbing, thresholds, and what stands behind a match. Data: the element #data.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const REACH_PX = 16, PATCH_PX = 28, KEPT_IMAGES = 16, UNKNOWN = 255;
  const decoded = new Map();

  const colour = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const number = v => v === null || v === undefined ? "–" : Math.abs(v) >= 100 ? v.toFixed(0) : String(+v.toFixed(3));

  const place = (x, y) => `(${(x - 0.5).toFixed(1)}, ${(y - 0.5).toFixed(1)})`;

  // Thumbnails are decoded when a pair is looked at; the last few are kept.
  function image(index) {
    if (index < 0) return Promise.resolve(null);
    let wanted = decoded.get(index);
    if (!wanted) {
      const element = new Image();
      element.src = "data:image/jpeg;base64," + data.images[index];
      wanted = element.decode().then(() => element);
      if (decoded.size >= KEPT_IMAGES) decoded.delete(decoded.keys().next().value);
      decoded.set(index, wanted);
    }
    return wanted;
  }

  function unpack(pair) {
    const bytes = Uint8Array.from(atob(pair.m), c => c.charCodeAt(0));
    const count = bytes.length / 13, words = new DataView(bytes.buffer);
    const [w0, h0, w1, h1] = pair.s;
    const word = (column, i) => words.getUint16(2 * (column * count + i), true) / 65535;
    const byte = (column, i) => bytes[10 * count + column * count + i];
    const similar = v => v === UNKNOWN ? null : v / 127 - 1;
    return Array.from({length: count}, (_, i) => ({
      x0: word(0, i) * w0, y0: word(1, i) * h0, x1: word(2, i) * w1, y1: word(3, i) * h1, share: word(4, i),
      inlier: byte(0, i) === UNKNOWN ? null : byte(0, i) === 1,
      texture: similar(byte(1, i)), semantics: similar(byte(2, i)),
    }));
  }

  // Cividis, as in pictures: dark blue, grey, yellow.
  const RAMP = data.ramp;
  function amount(share) {
    const at = Math.min(Math.max(share, 0), 1) * (RAMP.length - 1), low = Math.floor(at), high = Math.ceil(at);
    return "rgb(" + RAMP[low].map((v, k) => Math.round(v + (RAMP[high][k] - v) * (at - low))).join(",") + ")";
  }

  // Moves the mark of every trajectory to where it was at a time.
  function locate(time) {
    for (const figure of document.querySelectorAll("figure[data-path]")) {
      const path = data.paths[+figure.dataset.path], mark = figure.querySelector(".here");
      let best = 0;
      path.seconds.forEach((s, i) => { if (Math.abs(s - time) < Math.abs(path.seconds[best] - time)) best = i; });
      mark.setAttribute("cx", path.x[best]); mark.setAttribute("cy", path.y[best]);
    }
  }

  class Viewer {
    constructor(section, stream) {
      this.section = section; this.stream = stream; this.index = 0; this.drawn = []; this.places = []; this.chosen = null;
      const find = name => section.querySelector(`[data-role="${name}"]`);
      for (const name of ["canvas", "line", "threshold", "level", "inliers", "view", "caption", "previous", "next", "play",
                          "patches", "facts", "hint"]) this[name] = find(name);
      this.line.max = stream.pairs.length - 1;
      this.line.addEventListener("input", () => this.go(+this.line.value));
      this.threshold.addEventListener("input", () => this.draw());
      this.inliers.addEventListener("change", () => this.draw());
      this.view.addEventListener("change", () => this.draw());
      this.previous.addEventListener("click", () => this.go(this.index - 1));
      this.next.addEventListener("click", () => this.go(this.index + 1));
      this.play.addEventListener("click", () => this.toggle());
      this.canvas.addEventListener("pointermove", e => this.point(e));
      this.canvas.addEventListener("pointerdown", e => this.point(e));
      this.canvas.addEventListener("pointerleave", () => { if (matchMedia("(hover: hover)").matches) this.choose(null); });
      section.addEventListener("keydown", e => this.key(e));
      this.charts = [...section.querySelectorAll("figure[data-keys]")].map(f => new Chart(f, this));
      new ResizeObserver(() => this.draw()).observe(this.canvas.parentElement);
      this.go(stream.start);
    }

    key(event) {
      const step = {ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10}[event.key];
      const typed = event.target.matches("input, select");
      if (event.key === "Escape") this.choose(null);
      else if (typed || event.ctrlKey || event.metaKey || event.altKey) return;
      else if (step) this.go(this.index + step);
      else if (event.key === "Home") this.go(0);
      else if (event.key === "End") this.go(this.stream.pairs.length - 1);
      else if (event.key === "n") this.choose(this.following(1));
      else if (event.key === "p") this.choose(this.following(-1));
      else if (event.key === " " && event.target === this.canvas) this.toggle();
      else return;
      event.preventDefault();
    }

    toggle() {
      clearInterval(this.timer);
      const start = this.play.getAttribute("aria-pressed") !== "true";
      this.play.setAttribute("aria-pressed", start);
      if (!start) return;
      if (this.index === this.stream.pairs.length - 1) this.go(0);
      this.timer = setInterval(() => {
        if (this.index >= this.stream.pairs.length - 1) this.toggle(); else this.go(this.index + 1);
      }, 120);
    }

    async go(index) {
      index = Math.min(Math.max(index, 0), this.stream.pairs.length - 1);
      this.index = index; this.line.value = index;
      const pair = this.stream.pairs[index];
      this.matches = unpack(pair); this.chosen = null;
      for (const chart of this.charts) chart.mark(pair.n);
      locate(this.stream.series.seconds[pair.n] + this.stream.start_s);
      const images = await Promise.all(pair.i.map(image));
      if (this.index !== index) return;  // the next one was asked for meanwhile
      this.images = images;
      this.draw();
    }

    layout(pair) {
      const [w0, h0, w1, h1] = pair.s, room = this.canvas.parentElement.clientWidth, gap = 4;
      const tall = window.innerHeight * 0.7;
      if (this.view.value === "arrows") {
        const scale = Math.min(room / w1, tall / h1);
        return {width: w1 * scale, height: h1 * scale, at: [null, [0, 0, scale]]};
      }
      if (room < 600) {  // one below the other on a phone
        const scales = [room / w0, room / w1];
        return {width: room, height: h0 * scales[0] + gap + h1 * scales[1],
                at: [[0, 0, scales[0]], [0, h0 * scales[0] + gap, scales[1]]]};
      }
      // Both of one height, which fills the room.
      const height = Math.min((room - gap) / (w0 / h0 + w1 / h1), tall);
      return {width: w0 / h0 * height + gap + w1 / h1 * height, height,
              at: [[0, 0, height / h0], [w0 / h0 * height + gap, 0, height / h1]]};
    }

    draw() {
      if (!this.images) return;
      const pair = this.stream.pairs[this.index], arrows = this.view.value === "arrows", where = this.layout(pair);
      const ratio = window.devicePixelRatio || 1, pen = this.canvas.getContext("2d");
      this.canvas.width = Math.round(where.width * ratio); this.canvas.height = Math.round(where.height * ratio);
      this.canvas.style.width = where.width + "px"; this.canvas.style.height = where.height + "px";
      pen.setTransform(ratio, 0, 0, ratio, 0, 0);
      pen.fillStyle = "#282828";
      where.at.forEach((at, side) => {
        if (!at) return;
        const box = [at[0], at[1], pair.s[2 * side] * at[2], pair.s[2 * side + 1] * at[2]];
        pen.fillRect(...box);
        if (this.images[side]) pen.drawImage(this.images[side], ...box);
      });
      const least = +this.threshold.value, only = this.inliers.checked, [low, high] = this.stream.range;
      this.level.textContent = (low + least * (high - low)).toFixed(2);
      const to = (x, y, at) => [at[0] + x * at[2], at[1] + y * at[2]];
      const visible = this.matches.filter(m => m.share >= least - 1e-9 && !(only && m.inlier === false));
      this.drawn = visible;
      this.places = visible.map(m => [to(m.x0, m.y0, where.at[0] || where.at[1]), to(m.x1, m.y1, where.at[1])]);
      const order = visible.map((_, i) => i).sort((a, b) => (visible[a].inlier === false ? 0 : 1) - (visible[b].inlier === false ? 0 : 1));
      for (const i of order) this.stroke(pen, visible[i], this.places[i], arrows, visible[i] === this.chosen);
      const all = this.stream.series, n = pair.n;
      const inliers = all.inliers[n] === null ? "" : `, ${all.inliers[n]} inliers`;
      this.caption.textContent = `Pair ${n + 1} of ${all.matches.length}, ${number(all.seconds[n])} s: ` +
        `${all.matches[n]} matches${inliers}; ${visible.length} shown`;
      this.line.setAttribute("aria-valuetext", this.caption.textContent);
      this.tell();
    }

    stroke(pen, match, [a, b], arrows, chosen) {
      const wrong = match.inlier === false;
      const ink = match.inlier === null ? amount(match.share) : colour(wrong ? "--outlier-on-picture" : "--inlier-on-picture");
      pen.globalAlpha = chosen ? 1 : this.chosen ? 0.25 : wrong ? 0.5 : 0.85;
      pen.lineWidth = chosen ? 3 : 1.4; pen.strokeStyle = pen.fillStyle = ink;
      pen.beginPath(); pen.moveTo(...a); pen.lineTo(...b); pen.stroke();
      const length = Math.hypot(b[0] - a[0], b[1] - a[1]);
      if (arrows && length > 4) {
        const turn = Math.atan2(b[1] - a[1], b[0] - a[0]), tip = Math.min(7, length / 2);
        pen.beginPath();
        for (const side of [-0.5, 0.5]) {
          pen.moveTo(...b); pen.lineTo(b[0] - tip * Math.cos(turn + side), b[1] - tip * Math.sin(turn + side));
        }
        pen.stroke();
      }
      for (const p of arrows ? [b] : [a, b]) {
        pen.beginPath();
        if (wrong) {
          pen.moveTo(p[0] - 3, p[1] - 3); pen.lineTo(p[0] + 3, p[1] + 3);
          pen.moveTo(p[0] - 3, p[1] + 3); pen.lineTo(p[0] + 3, p[1] - 3); pen.stroke();
        } else { pen.arc(...p, chosen ? 4.5 : 2.2, 0, 7); pen.fill(); }
      }
      pen.globalAlpha = 1;
    }

    point(event) {
      const box = this.canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
      let best = null, nearest = REACH_PX;
      this.places.forEach((ends, i) => {
        for (const [px, py] of ends) {
          const away = Math.hypot(px - x, py - y);
          if (away < nearest) { nearest = away; best = this.drawn[i]; }
        }
      });
      this.choose(best);
    }

    following(step) {
      if (!this.drawn.length) return null;
      const at = this.drawn.indexOf(this.chosen);
      return this.drawn[at < 0 ? (step > 0 ? 0 : this.drawn.length - 1) : (at + step + this.drawn.length) % this.drawn.length];
    }

    choose(match) {
      if (match === this.chosen) return;
      this.chosen = match;
      this.draw();
    }

    tell() {
      const match = this.chosen, pair = this.stream.pairs[this.index], [low, high] = this.stream.range;
      this.patches.hidden = !match; this.hint.hidden = !!match;
      if (!match) { this.facts.textContent = ""; return; }
      [...this.patches.children].forEach((canvas, side) => {
        const pen = canvas.getContext("2d"), picture = this.images[side], size = canvas.width;
        const [x, y, w] = side ? [match.x1, match.y1, pair.s[2]] : [match.x0, match.y0, pair.s[0]];
        pen.fillStyle = "#282828"; pen.fillRect(0, 0, size, size);
        if (picture) {
          const scale = picture.naturalWidth / w, reach = PATCH_PX * scale;
          pen.drawImage(picture, x * scale - reach, y * scale - reach, 2 * reach, 2 * reach, 0, 0, size, size);
        }
        pen.strokeStyle = "#000"; pen.lineWidth = 4; pen.beginPath(); pen.arc(size / 2, size / 2, 8, 0, 7); pen.stroke();
        pen.strokeStyle = "#fff"; pen.lineWidth = 2; pen.beginPath(); pen.arc(size / 2, size / 2, 8, 0, 7); pen.stroke();
      });
      const rows = [["texture", match.texture], ["semantics", match.semantics], ["compared", low + match.share * (high - low)]];
      const state = match.inlier === null ? "" : match.inlier ? "inlier" : "outlier";
      this.facts.replaceChildren(...rows.filter(([, v]) => v !== null).map(([name, value]) => {
        const line = document.createElement("div"), bar = document.createElement("i");
        bar.style.width = Math.min(Math.max(value, 0), 1) * 100 + "%";
        line.append(name + " " + value.toFixed(2), bar);
        return line;
      }), Object.assign(document.createElement("div"), {
        // Pixels as everywhere: (0, 0) is the centre of the first one. Drawing counts from its corner.
        textContent: `${state} ${place(match.x0, match.y0)} → ${place(match.x1, match.y1)}`,
      }));
    }
  }

  // Answers the pointer with the values at its time; a click goes to that pair.
  class Chart {
    constructor(figure, viewer) {
      this.figure = figure; this.viewer = viewer; this.keys = figure.dataset.keys.split(" ");
      this.svg = figure.querySelector("svg"); this.readout = figure.querySelector(".readout");
      this.cursor = document.createElementNS(this.svg.namespaceURI, "line");
      this.cursor.setAttribute("class", "cursor"); this.cursor.setAttribute("y2", this.svg.viewBox.baseVal.height);
      this.svg.append(this.cursor);
      const {seconds} = viewer.stream.series;
      this.start = seconds[0]; this.span = seconds[seconds.length - 1] - seconds[0] || 1;
      this.svg.addEventListener("pointermove", e => this.show(this.nearest(e)));
      this.svg.addEventListener("pointerleave", () => this.mark(this.current));
      this.svg.addEventListener("click", e => viewer.go(Math.round(this.nearest(e) / viewer.stream.step)));
    }

    nearest(event) {
      const box = this.svg.getBoundingClientRect(), {seconds} = this.viewer.stream.series;
      const time = this.start + (event.clientX - box.left) / box.width * this.span;
      let low = 0, high = seconds.length - 1;
      while (low < high) { const middle = (low + high) >> 1; if (seconds[middle] < time) low = middle + 1; else high = middle; }
      return low > 0 && time - seconds[low - 1] < seconds[low] - time ? low - 1 : low;
    }

    mark(n) { this.current = n; this.show(n); }

    show(n) {
      const {series} = this.viewer.stream, x = (series.seconds[n] - this.start) / this.span * this.svg.viewBox.baseVal.width;
      this.cursor.setAttribute("x1", x); this.cursor.setAttribute("x2", x);
      const unit = this.figure.dataset.unit;
      const text = v => v === null ? "–" : unit === "%" ? number(v * 100) + " %" : number(v) + (unit ? " " + unit : "");
      this.readout.textContent = `${number(series.seconds[n])} s: ` + this.keys.map(k => `${text(series[k][n])} ${data.words[k]}`).join(", ");
    }
  }

  for (const section of document.querySelectorAll("section[data-stream]")) {
    new Viewer(section, data.streams[+section.dataset.stream]);
  }
})();
