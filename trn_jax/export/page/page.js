// trn_jax in a browser: classes of videos and of a camera, with the frames and the scores of
// `trn-jax predict`. No video leaves the device.
//
// One module, which is the page, and, started again as a worker, the network. Without a document
// (in tests) it only defines its functions, which mirror those of the Python package.

const MODEL = "model.onnx";
const RUNTIMES = {
  webgpu: [
    "ort.webgpu.min.mjs",
    "ort-wasm-simd-threaded.asyncify.mjs",
    "ort-wasm-simd-threaded.asyncify.wasm",
  ],
  wasm: ["ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"],
};
const ADVICE = "Write this folder again: trn-jax export CHECKPOINT --to=DIR --page --ort=DIST";
const NOTHING = "nothing"; // the class of a time without events

/** What is wrong, in one line for whoever looks at the page. */
export class PageError extends Error {}

// Metadata ----------------------------------------------------------------------------------------

/** The `metadata_props` of an ONNX file: `{key: text}`. Weights are skipped, not parsed. */
export function metadataProps(bytes) {
  const text = new TextDecoder();
  const found = {};
  for (const [field, value] of messageFields(bytes)) {
    if (field !== 14 || !(value instanceof Uint8Array)) continue;
    const entry = Object.fromEntries(messageFields(value));
    found[text.decode(entry[1])] = text.decode(entry[2]);
  }
  return found;
}

/** Numbers of fields and their values, numbers or bytes, of a Protocol Buffers message. */
function* messageFields(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      if (at >= bytes.length || scale > 2 ** 63)
        throw new PageError(`${MODEL} is not an ONNX file. ${ADVICE}`);
      const byte = bytes[at++];
      value += (byte & 127) * scale;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const key = varint();
    const kind = key & 7;
    const size = kind === 2 ? varint() : { 1: 8, 5: 4 }[kind];
    if (kind === 0) {
      yield [Math.floor(key / 8), varint()];
      continue;
    }
    if (size === undefined || at + size > bytes.length) {
      throw new PageError(`${MODEL} is not a whole ONNX file. ${ADVICE}`);
    }
    yield [Math.floor(key / 8), bytes.subarray(at, at + size)];
    at += size;
  }
}

/** The metadata of an export, checked for what this page can do. */
export function modelMetadata(bytes) {
  const text = metadataProps(bytes).trn_jax;
  if (text === undefined) throw new PageError(`${MODEL} has no metadata of trn_jax. ${ADVICE}`);
  let found;
  try {
    found = JSON.parse(text);
  } catch {
    throw new PageError(`The metadata of ${MODEL} can't be read. ${ADVICE}`);
  }
  if (found.format !== 1 || !["clip", "stream"].includes(found.form)) {
    throw new PageError(
      `${MODEL} has format ${found.format} and form ${found.form}; expected 1, and clip or stream.`,
    );
  }
  return found;
}

const NUMBERS = { "|u1": Uint8Array, "<f4": Float32Array };

/** The arrays of a compressed `.npz` file: `{name: {data, shape}}`. */
export async function npzArrays(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const end = bytes.length - 22; // the end of a ZIP without a comment
  const found = {};
  let at = view.getUint32(end + 16, true);
  for (let left = view.getUint16(end + 10, true); left; left--) {
    const [size, start] = [view.getUint32(at + 20, true), view.getUint32(at + 42, true)];
    const [name, extra, comment] = [28, 30, 32].map((offset) => view.getUint16(at + offset, true));
    const key = new TextDecoder()
      .decode(bytes.subarray(at + 46, at + 46 + name))
      .replace(/\.npy$/, "");
    const content =
      start + 30 + view.getUint16(start + 26, true) + view.getUint16(start + 28, true);
    const packed = new Blob([bytes.subarray(content, content + size)]).stream();
    const stream = packed.pipeThrough(new DecompressionStream("deflate-raw"));
    found[key] = npyArray(await new Response(stream).arrayBuffer());
    at += 46 + name + extra + comment;
  }
  return found;
}

function npyArray(buffer) {
  const length = new DataView(buffer).getUint16(8, true);
  const header = new TextDecoder().decode(buffer.slice(10, 10 + length));
  const [, kind] = header.match(/'descr': '([^']*)'/);
  const [, shape] = header.match(/'shape': \(([^)]*)\)/);
  const data = new NUMBERS[kind](buffer.slice(10 + length));
  return {
    data,
    shape: shape
      .split(",")
      .filter((part) => part.trim())
      .map(Number),
  };
}

// Sampling: data/sampling.py ----------------------------------------------------------------------

/** Round half to even, as NumPy and Python do. */
export function roundEven(value) {
  const low = Math.floor(value);
  const rest = value - low;
  return rest < 0.5 || (rest === 0.5 && low % 2 === 0) ? low : low + 1;
}

const range = (count) => Array.from({ length: count }, (_, index) => index);

/** Frame numbers `[clips][segments]` of a view; only views that draw nothing. */
export function clipIndices(view, numFrames) {
  const clips = forwardClips(view, numFrames, view.num_segments);
  if (view.frame_order === "reversed") return clips.map((clip) => clip.reverse());
  if ((view.frame_order ?? "forward") !== "forward")
    throw cannotDraw(`frame_order=${view.frame_order}`);
  return clips;
}

function forwardClips(view, numFrames, count) {
  const length = numFrames / count;
  if (view.sampling === "center" || view.sampling === "twice") {
    const first = view.sampling === "center" && view.short_videos === "first";
    if (first && numFrames <= count) return [range(count).map(() => 0)];
    const centers = range(count).map((n) => Math.floor(n * length + length / 2));
    if (view.sampling === "center") return [centers];
    return [centers, range(count).map((n) => Math.floor(n * length))];
  }
  const clips = view.num_clips ?? 1;
  if (view.sampling === "dense") {
    const last = Math.max(numFrames - view.sample_range, 0);
    const gap = Math.floor(view.sample_range / count);
    return range(clips).map((clip) => {
      const start =
        clip && clip === clips - 1 ? last : Math.floor(clip * (last / (clips - 1 || 1)));
      return range(count).map((n) => (start + n * gap) % numFrames);
    });
  }
  if (view.sampling !== "clips") throw cannotDraw(`sampling=${view.sampling}`);
  return clipStarts(view, numFrames, clips).map((start) => {
    const wanted = range(count).map((n) => start + n * view.frame_interval);
    if (view.out_of_bound !== "repeat_last") return wanted.map((n) => n % numFrames);
    const last = Math.max(...wanted.filter((n) => n < numFrames), 0);
    return wanted.map((n) => (n < numFrames ? n : last));
  });
}

function clipStarts(view, numFrames, clips) {
  const span = view.num_segments * view.frame_interval;
  if (view.clip_positions === "middles") {
    const length = Math.max(numFrames - span + 1, 0) / clips;
    return range(clips).map((n) => Math.floor(n * length + length / 2));
  }
  const last = Math.max(numFrames - (span - view.frame_interval + 1), 0);
  if (clips === 1) return [Math.floor(last / 2)];
  return range(clips).map((n) => roundEven(n * (last / (clips - 1))));
}

function cannotDraw(what) {
  return new PageError(
    `${MODEL} looks at videos with ${what}, which draws at random; export with another protocol.`,
  );
}

/** Distance of the frames of a stream, in frames of the video: data/frame_views.py. */
export function frameSpacing(view, numFrames) {
  if (view.sampling === "clips") return view.frame_interval;
  if (view.sampling === "dense") return Math.floor(view.sample_range / view.num_segments);
  return numFrames / view.num_segments;
}

// Pixels: data/augment.py, data/crops.py ----------------------------------------------------------

/** Height and width after scaling the shorter side, rounded half up. */
export function shortSideSize(height, width, shortSide) {
  const factor = shortSide ? shortSide / Math.min(height, width) : 1;
  return [Math.floor(height * factor + 0.5), Math.floor(width * factor + 0.5)];
}

/** The crops of a scaled frame: `[left, top, mirrored]` each, all of `crop_size`. */
export function cropPlaces(view, height, width) {
  const size = view.crop_size;
  if (view.crop === "center") return [[(width - size) >> 1, (height - size) >> 1, false]];
  if (view.crop === "three") {
    const step = ((height === size ? width : height) - size) >> 1;
    return [0, 2 * step, step].map((at) => (height === size ? [at, 0, false] : [0, at, false]));
  }
  if (view.crop !== "ten") throw cannotDraw(`crop=${view.crop}`);
  const [x, y] = [(width - size) >> 2, (height - size) >> 2];
  const corners = [
    [0, 0],
    [4, 0],
    [0, 4],
    [4, 4],
    [2, 2],
  ];
  return corners.flatMap(([u, v]) => [
    [x * u, y * v, false],
    [x * u, y * v, true],
  ]);
}

/** The number of crops of a view. */
export const numCrops = (view) => ({ center: 1, three: 3, ten: 10 })[view.crop];

/**
 * The weights of OpenCV's bilinear interpolation of bytes, 11 bits each: `[first, second, weight of
 * first, weight of second]` per pixel. It repeats pixels over the ends of rows by their weights and
 * over those of columns by their numbers, which rounds differently.
 */
function linearWeights(from, to, start, count, isRow) {
  const found = new Int32Array(4 * count);
  for (let n = 0; n < count; n++) {
    const position = Math.fround((start + n + 0.5) * (from / to) - 0.5);
    let low = Math.floor(position);
    let rest = Math.fround(position - low);
    if (isRow && low < 0) [low, rest] = [0, 0];
    if (isRow && low >= from - 1) [low, rest] = [from - 1, 0];
    const ends = [low, low + 1].map((at) => Math.min(Math.max(at, 0), from - 1));
    const weights = [Math.fround(1 - rest), rest].map((share) =>
      roundEven(Math.fround(share * 2048)),
    );
    found.set([...ends, ...weights], 4 * n);
  }
  return found;
}

/**
 * One crop of a scaled frame, bytes `[size, size, 3]`, equal to cv2's bit for bit; only the pixels
 * of the crop are computed.
 *
 * `image`: bytes `[height, width, 4]` as of a canvas; `scaled`: its height and width after scaling.
 */
export function cutCrop(image, scaled, [left, top, mirrored], size) {
  const { data, width, height } = image;
  const columns = linearWeights(width, scaled[1], left, size, true);
  const rows = linearWeights(height, scaled[0], top, size, false);
  const found = new Uint8Array(size * size * 3);
  const lines = new Map(); // horizontally resized rows of the frame, of which two are needed
  const line = (row) => {
    if (lines.has(row)) return lines.get(row);
    const values = new Int32Array(size * 3);
    for (let x = 0; x < size; x++) {
      const first = 4 * (row * width + columns[4 * x]);
      const second = 4 * (row * width + columns[4 * x + 1]);
      for (let c = 0; c < 3; c++) {
        values[3 * x + c] =
          (data[first + c] * columns[4 * x + 2] + data[second + c] * columns[4 * x + 3]) >> 4;
      }
    }
    lines.set(row, values);
    return values;
  };
  for (let y = 0; y < size; y++) {
    const [above, below, upper, lower] = rows.subarray(4 * y, 4 * y + 4);
    for (const row of lines.keys()) if (row < above) lines.delete(row);
    const [first, second] = [line(above), line(below)];
    for (let x = 0; x < size; x++) {
      const target = 3 * (y * size + (mirrored ? size - 1 - x : x));
      for (let c = 0; c < 3; c++) {
        const at = 3 * x + c;
        found[target + c] = (((upper * first[at]) >> 16) + ((lower * second[at]) >> 16) + 2) >> 2;
      }
    }
  }
  return found;
}

/** All crops of a frame, bytes `[size, size, 3]` each, in the order of the view. */
export function cutCrops(image, view) {
  const scaled = shortSideSize(image.height, image.width, view.short_side);
  return cropPlaces(view, ...scaled).map((place) => cutCrop(image, scaled, place, view.crop_size));
}

// Windows: prediction/windows.py, prediction/timeline.py, prediction/live.py ----------------------

const USUAL_RATE = 30; // frames per second, where neither the checkpoint nor the video has one
const VIRTUAL = 1000; // frames per segment, which divide a window finely

/**
 * Length and stride of the windows of a contract, and the rate of the frames they are sampled by.
 *
 * `byFrame`: the backbone sees single frames; `trn-jax predict` has more windows then.
 */
export function planWindows(contract, frameRate, byFrame) {
  const rate = contract.frame_rate || frameRate || USUAL_RATE;
  const length = contract.seconds || (contract.num_frames && contract.num_frames / rate);
  if (!length) {
    throw new PageError(
      `${MODEL} has no length of its training examples, so it only takes short videos.`,
    );
  }
  const segments = contract.view.num_segments;
  const stride = (length * (byFrame ? 1 : Math.max(Math.floor(segments / 4), 1))) / segments;
  return { view: contract.view, length, stride, rate };
}

/** Start and end of every window of a video, in seconds; the last one ends with the video. */
export function* stretches({ length, stride }, total) {
  const tolerance = 1e-3 * length;
  let end = 0;
  for (let number = 0; ; number++) {
    const start = number * stride;
    if (start + length > total + tolerance) break;
    end = start + length;
    yield [start, end];
  }
  if (!end || end < total - tolerance) yield [Math.max(total - length, 0), total];
}

/** When the frames of a window are wanted, `[clips][segments]`, in seconds. */
export function windowTimes({ view, rate: frameRate }, start, end) {
  const spread = view.sampling === "center" || view.sampling === "twice";
  const rate = spread ? (VIRTUAL * view.num_segments) / (end - start) : frameRate;
  const numFrames = Math.max(roundEven((end - start) * rate), 1);
  return clipIndices(view, numFrames).map((clip) => clip.map((n) => start + (n + 0.5) / rate));
}

/** Number of the frame that is shown at a time, by the ascending times of all frames. */
export function shownAt(times, time) {
  let [low, high] = [0, times.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (times[middle] <= time) low = middle + 1;
    else high = middle;
  }
  return Math.max(low - 1, 0);
}

/** All windows of a video: start, end and the numbers of the frames, `[clips][segments]`. */
export function* videoWindows(plan, times, total) {
  for (const [start, end] of stretches(plan, total)) {
    const wanted = windowTimes(plan, start, end);
    const frames = wanted.map((clip) =>
      clip.map((time) => shownAt(times, roundEven(time * 1e6) / 1e6)),
    );
    yield { start, end, frames };
  }
}

/** The regular points of time at which the frames of a live window are taken. */
export function liveGrid(plan) {
  const times = windowTimes(plan, 0, plan.length);
  const first = Math.min(...times.flat());
  const offsets = times.map((clip) => clip.map((time) => roundEven((time - first) * 1e6) / 1e6));
  const distinct = [...new Set(offsets.flat())].sort((a, b) => a - b);
  const gaps = distinct.slice(1).map((offset, n) => offset - distinct[n]);
  const step = gaps.length ? Math.min(...gaps) : plan.length;
  return { numbers: offsets.map((clip) => clip.map((offset) => roundEven(offset / step))), step };
}

/** Length of the windows of a stream and the distance of its frames, in seconds. */
export function planStream(contract, frameRate, window) {
  const { view, length, rate } = planWindows(contract, frameRate);
  const step = frameSpacing(view, length * rate) / rate;
  return { length: step * window, step };
}

/** Whether a video of so many seconds gets a timeline: prediction/contract.py. */
export const isLong = (contract, seconds) =>
  Boolean(contract.seconds && seconds > 3 * contract.seconds);

// Scores: evaluation/merging.py, evaluation/calibration.py ----------------------------------------

/** Softmax or sigmoids of logits. */
function probabilities(logits, multiLabel) {
  if (multiLabel) return Array.from(logits, (logit) => (1 + Math.tanh(logit / 2)) / 2);
  const most = Math.max(...logits);
  const powers = Array.from(logits, (logit) => Math.exp(logit - most));
  const total = powers.reduce((sum, power) => sum + power, 0);
  return powers.map((power) => power / total);
}

const meanOf = (rows) =>
  Array.from(rows[0], (_, n) => rows.reduce((sum, row) => sum + row[n], 0) / rows.length);

/** Merge the logits `[views][classes]` of a video into scores. */
export function mergeViews(rows, merge, multiLabel) {
  const merged =
    merge === "logits"
      ? probabilities(meanOf(rows), multiLabel)
      : meanOf(rows.map((row) => probabilities(row, multiLabel)));
  return merged.map(Math.fround);
}

/** Scores whose logits are divided by a temperature. */
export function calibrated(scores, temperature, multiLabel) {
  if (temperature === 1) return scores;
  const clipped = scores.map((score) => Math.min(Math.max(score, 2 ** -126), 1 - 2 ** -25));
  const logits = clipped.map(
    (p) => (Math.log(p) - (multiLabel ? Math.log1p(-p) : 0)) / temperature,
  );
  return probabilities(logits, multiLabel).map(Math.fround);
}

/** Numbers of the classes with the highest scores, the best first. */
export function topClasses(scores, count) {
  return range(scores.length)
    .sort((a, b) => scores[b] - scores[a] || a - b)
    .slice(0, count);
}

/** The classes of a whole video; none if its thresholds reject it: prediction/detection.py. */
export function acceptedClasses(scores, { thresholds, rejects }, multiLabel) {
  if (!rejects && !multiLabel) return topClasses(scores, 1);
  const candidates = multiLabel ? range(scores.length) : topClasses(scores, 1);
  return candidates.filter((n) => scores[n] >= thresholds[n]);
}

/** How events are found, by the metadata of a model; see `DetectionSettings`. */
export function detectionSettings({ calibration, class_names: names }) {
  const thresholds = names.map((name) => calibration?.thresholds[name] ?? 0.5);
  return {
    thresholds,
    rejects: Boolean(calibration),
    hysteresis: 0.7,
    smoothing: 1,
    minSeconds: null,
    extend: true,
  };
}

// Events: `EventDetector` of prediction/detection.py ----------------------------------------------

const SHORTEST = 0.15; // of a window
const TOLERANCE = 1e-6; // of the length of a window, within which lengths are equal

/** Finds the events of one video, window by window; see the Python class of this name. */
export class EventDetector {
  constructor(classNames, settings, multiLabel) {
    Object.assign(this, { classNames, settings, isExclusive: !multiLabel });
    this.off = settings.thresholds.map((threshold) => threshold * settings.hysteresis);
    this.recent = []; // windows that the mean of the newest smoothed one takes in
    this.numWindows = 0;
    this.cell = null; // start, middle, end and scores of the newest smoothed window
    this.running = new Map();
    this.length = 0; // of a window
    this.held = null; // a window that the next one replaces, if both have the same start
    this.first = 0; // the start of the video
    this.ended = []; // [label, event], until it is known what follows
    this.given = new Map(); // the ends of the events before, by label
  }

  /** Add a window `{start, end, scores}`, in order; returns the events that have ended. */
  add(window) {
    const found = this.held && window.start > this.held.start ? this.#take(this.held) : [];
    const seconds = window.end - window.start;
    const mayGrow = Math.abs(seconds - this.length) > TOLERANCE * this.length;
    this.held = mayGrow ? window : null;
    this.length = Math.max(this.length, seconds);
    return mayGrow ? found : [...found, ...this.#take(window)];
  }

  /** The events that last until the end of the video. */
  finish() {
    const found = this.held ? this.#take(this.held) : [];
    this.held = null;
    const behind = this.settings.smoothing >> 1;
    const waiting = behind ? this.recent.slice(-behind) : [];
    waiting.forEach((window, index) => {
      const from = Math.max(this.recent.length - waiting.length - behind + index, 0);
      found.push(...this.#advance(window, this.recent.slice(from)));
    });
    if (!this.cell) return found;
    const [start, , end, scores] = this.cell;
    found.push(...this.#count(start, end, scores));
    for (const label of [...this.running.keys()].sort((a, b) => a - b)) this.#end(label);
    return [...found, ...this.#release(end, true)];
  }

  /** The classes that last at the moment, with their starts, for a display. */
  get lasting() {
    const isSure = ([label, { peak }]) => peak >= this.settings.thresholds[label];
    return [...this.running]
      .filter(isSure)
      .map(([label, { start, end }]) => ({ label, start, end }));
  }

  #take(window) {
    this.recent.push(window);
    if (this.recent.length > this.settings.smoothing) this.recent.shift();
    this.numWindows += 1;
    // The smoothed scores of a window need those of half as many windows after it.
    const behind = this.settings.smoothing >> 1;
    if (this.numWindows <= behind) return [];
    return this.#advance(this.recent.at(-1 - behind), this.recent);
  }

  #advance(window, around) {
    const scores = meanOf(around.map((each) => each.scores));
    const middle = (window.start + window.end) / 2;
    if (!this.cell) {
      this.first = window.start;
      this.cell = [window.start, middle, window.end, scores];
      return [];
    }
    const [start, before, , beforeScores] = this.cell;
    const border = (before + middle) / 2;
    this.cell = [border, middle, window.end, scores];
    return this.#count(start, border, beforeScores);
  }

  #count(start, end, scores) {
    const best = topClasses(scores, 1)[0];
    const lasts = scores.map(
      (score, n) => score >= this.off[n] && (!this.isExclusive || n === best),
    );
    lasts.forEach((does, label) => {
      if (!does || this.classNames[label] === NOTHING) return;
      const running = this.running.get(label) ?? { start, end: 0, peak: 0, weighted: 0 };
      running.weighted += scores[label] * (end - (running.end || running.start));
      running.end = end;
      running.peak = Math.max(running.peak, scores[label]);
      this.running.set(label, running);
    });
    for (const label of [...this.running.keys()]) if (!lasts[label]) this.#end(label);
    return this.#release(end, false);
  }

  #end(label) {
    const { start, end, peak, weighted } = this.running.get(label);
    this.running.delete(label);
    const seconds = end - start;
    const shortest = this.settings.minSeconds ?? SHORTEST * this.length;
    if (peak < this.settings.thresholds[label] || seconds < shortest || !seconds) return;
    this.ended.push([label, { label, start, end, score: weighted / seconds }]);
  }

  /** The events of which it is known by the time `now` how far they reach. */
  #release(now, isLast) {
    this.ended.sort(([, a], [, b]) => a.start - b.start || a.end - b.end);
    const found = [];
    while (this.ended.length) {
      const [label, event] = this.ended[0];
      const [extended, isSure] = this.#extended(label, event, now);
      if (!isSure && !isLast) break;
      this.ended.shift();
      this.given.set(label, extended.end);
      found.push(extended);
    }
    return found;
  }

  /** An event that is at least as long as a window, if it has room, and whether that is final. */
  #extended(label, event, now) {
    const missing = this.length - (event.end - event.start);
    if (!this.settings.extend || missing <= 0) return [event, true];
    // Where classes exclude each other, events of all classes limit it.
    const given = [...this.given].filter(([other]) => this.isExclusive || other === label);
    const roomBefore = Math.max(
      event.start - Math.max(this.first, ...given.map(([, end]) => end)),
      0,
    );
    let before = Math.min(missing / 2, roomBefore);
    const [limit, mayGrow] = this.#limitAfter(label, event);
    const after = Math.min(missing - before, Math.max(Math.min(limit, now) - event.end, 0));
    before = Math.min(missing - after, roomBefore);
    const isShort = missing - before - after > TOLERANCE * this.length;
    const isKnown = now >= event.end + missing - Math.min(missing / 2, roomBefore);
    const extended = { ...event, start: event.start - before, end: event.end + after };
    return [extended, isKnown && !(isShort && mayGrow)];
  }

  /** Until when the events after an event let it last, and whether that may become later. */
  #limitAfter(label, event) {
    const later = [
      ...this.ended.filter(([, each]) => each !== event).map(([n, each]) => [n, each, false]),
      ...[...this.running].map(([n, each]) => [n, each, true]),
    ];
    let [limit, mayGrow] = [Infinity, false];
    for (const [other, { start, end }, isRunning] of later) {
      if (!this.isExclusive && other !== label) continue;
      const needed = Math.max(this.length - (end - start), 0);
      limit = Math.min(limit, Math.max((event.end + start) / 2, start - needed));
      mayGrow ||= isRunning && needed > 0;
    }
    return [limit, mayGrow];
  }
}

// Frames of files ---------------------------------------------------------------------------------

const MOST_INDEX = 1 << 28; // bytes of the index of a file that are read
const BLOCK = 1 << 18; // bytes that are read of a file at a time

/** Times of all frames in seconds from the first, by the index of an MP4 or WebM, or `null`. */
export async function listedTimes(blob) {
  try {
    return ascending((await mp4Stamps(blob)) ?? (await webmStamps(blob)));
  } catch {
    return null; // an index that can't be read is none
  }
}

function ascending(stamps) {
  if (!stamps?.length) return null;
  const sorted = Float64Array.from(stamps).sort();
  const first = sorted[0];
  return sorted.some((time, n) => n && time === sorted[n - 1])
    ? null
    : sorted.map((time) => time - first);
}

async function viewOf(blob, start, size) {
  return new DataView(await blob.slice(start, start + size).arrayBuffer());
}

const fourLetters = (view, at) =>
  String.fromCharCode(...range(4).map((n) => view.getUint8(at + n)));

/** Boxes of an MP4 within a `DataView`: `[type, DataView of the content]`. */
function* boxes(view) {
  for (let at = 0; at + 8 <= view.byteLength;) {
    let [size, header] = [view.getUint32(at), 8];
    if (size === 1) [size, header] = [Number(view.getBigUint64(at + 8)), 16];
    if (size === 0) size = view.byteLength - at;
    if (size < header) return;
    const end = Math.min(at + size, view.byteLength);
    yield [
      fourLetters(view, at + 4),
      new DataView(view.buffer, view.byteOffset + at + header, end - at - header),
    ];
    at += size;
  }
}

/** The first box at a path such as `mdia/minf`. */
function box(view, path) {
  for (const name of path.split("/")) view = view && new Map([...boxes(view)].reverse()).get(name);
  return view;
}

/** Time stamps of an MP4 in seconds, without those that its edit list cuts; `null` for others. */
async function mp4Stamps(blob) {
  for (let at = 0; at < blob.size;) {
    const head = await viewOf(blob, at, 16);
    let size = head.getUint32(0);
    if (size === 1) size = Number(head.getBigUint64(8));
    const type = fourLetters(head, 4);
    if (at === 0 && !["ftyp", "moov", "wide", "mdat", "free", "skip"].includes(type)) return null;
    if (type === "moov") {
      if (size > MOST_INDEX) return null;
      const [[, moov]] = boxes(await viewOf(blob, at, size || blob.size - at));
      return stampsOfMovie(moov);
    }
    if (size < 8) return null;
    at += size;
  }
  return null;
}

function stampsOfMovie(moov) {
  const tracks = [...boxes(moov)].filter(([type]) => type === "trak").map(([, track]) => track);
  const track = tracks.find((each) => fourLetters(box(each, "mdia/hdlr"), 8) === "vide");
  if (!track || box(moov, "mvex")) return null; // the index of fragments is elsewhere
  const seconds = (header) => header.getUint32(header.getUint8(0) ? 20 : 12);
  const timescale = seconds(box(track, "mdia/mdhd"));
  const table = box(track, "mdia/minf/stbl");
  const offsets = runs(box(table, "ctts"), (view, at) => view.getInt32(at));
  let decoded = 0;
  const stamps = runs(box(table, "stts"), (view, at) => view.getUint32(at)).map((duration, n) => {
    const stamp = decoded + (offsets[n] ?? 0);
    decoded += duration;
    return stamp;
  });
  const edit = shownPart(box(track, "edts/elst"), timescale / seconds(box(moov, "mvhd")));
  return (
    edit &&
    stamps.filter((stamp) => stamp >= edit[0] && stamp < edit[1]).map((stamp) => stamp / timescale)
  );
}

/** The values of a table of pairs, how often and what. */
function runs(view, read) {
  const found = [];
  for (let at = 8; view && at + 8 <= view.byteLength; at += 8) {
    const count = view.getUint32(at);
    if (found.length + count > 1e7) throw new RangeError("too many frames");
    for (let n = 0; n < count; n++) found.push(read(view, at + 4));
  }
  return found;
}

/** The stretch of the stored time that an edit list shows; `null` if there are several. */
function shownPart(list, scale) {
  const parts = [];
  const isLarge = list?.getUint8(0);
  for (let at = 8; list && at + 12 <= list.byteLength; at += isLarge ? 20 : 12) {
    const duration = isLarge ? Number(list.getBigUint64(at)) : list.getUint32(at);
    const start = isLarge ? Number(list.getBigInt64(at + 8)) : list.getInt32(at + 4);
    if (start >= 0) parts.push([start, duration ? start + duration * scale : Infinity]);
  }
  return parts.length > 1 ? null : (parts[0] ?? [-Infinity, Infinity]);
}

const EBML = {
  head: 0x1a45dfa3,
  segment: 0x18538067,
  info: 0x1549a966,
  scale: 0x2ad7b1,
  tracks: 0x1654ae6b,
  track: 0xae,
  number: 0xd7,
  kind: 0x83,
  cluster: 0x1f43b675,
  time: 0xe7,
  group: 0xa0,
  block: 0xa1,
  simple: 0xa3,
};

/** Time stamps of a WebM or Matroska file in seconds; `null` for others. */
async function webmStamps(blob) {
  let [start, bytes] = [0, new Uint8Array()];
  const read = async (at, size) => {
    if (at < start || at + size > start + bytes.length) {
      [start, bytes] = [at, new Uint8Array(await blob.slice(at, at + BLOCK).arrayBuffer())];
    }
    return bytes.subarray(at - start, at - start + size);
  };
  const number = async (at, isSize) => {
    const [first] = await read(at, 1);
    const length = Math.clz32(first) - 23;
    if (!(length <= 8)) throw new RangeError("no number of EBML");
    const [, ...rest] = await read(at, length);
    let value = isSize ? first & (0xff >> length) : first;
    for (const byte of rest) value = value * 256 + byte;
    return [isSize && value === 2 ** (7 * length) - 1 ? Infinity : value, at + length]; // unknown
  };
  const integer = async (at, size) =>
    (await read(at, size)).reduce((sum, byte) => sum * 256 + byte, 0);
  if ((await number(0, false))[0] !== EBML.head) return null;
  let [scale, track, cluster, video] = [1e6, 0, 0, 0];
  const stamps = [];
  for (let at = 0; at < blob.size;) {
    const [id, afterId] = await number(at, false);
    const [size, content] = await number(afterId, true);
    at = content;
    if ([EBML.segment, EBML.info, EBML.tracks, EBML.track, EBML.cluster, EBML.group].includes(id))
      continue;
    if (id === EBML.scale) scale = await integer(content, size);
    if (id === EBML.number) track = await integer(content, size);
    if (id === EBML.kind && (await integer(content, size)) === 1) video ||= track;
    if (id === EBML.time) cluster = await integer(content, size);
    if (id === EBML.block || id === EBML.simple) {
      const [owner, after] = await number(content, true);
      const [high, low] = await read(after, 2);
      if (owner === video) stamps.push(((cluster + (((high << 24) >> 16) | low)) * scale) / 1e9);
    }
    at += size;
  }
  return stamps;
}

const delay = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

/** Wait for an event of a video, for at most so many seconds. */
function eventOf(video, name, seconds, problem) {
  return new Promise((resolve, reject) => {
    const settle = (act) => () => {
      clearTimeout(timer);
      video.removeEventListener(name, done);
      video.removeEventListener("error", failed);
      act();
    };
    const done = settle(resolve);
    const failed = settle(() => reject(new PageError(problem)));
    const timer = setTimeout(failed, 1000 * seconds);
    video.addEventListener(name, done);
    video.addEventListener("error", failed);
  });
}

/** Pixels of a video as it is shown, `ImageData`; the canvas is used again. */
class Grabber {
  #canvas = document.createElement("canvas");
  #context = this.#canvas.getContext("2d", { willReadFrequently: true });

  pixels(video) {
    const [width, height] = [video.videoWidth, video.videoHeight];
    if (this.#canvas.width !== width) this.#canvas.width = width;
    if (this.#canvas.height !== height) this.#canvas.height = height;
    this.#context.drawImage(video, 0, 0, width, height);
    return this.#context.getImageData(0, 0, width, height);
  }
}

/**
 * The frames of a file, by number. MP4 and WebM list when each is shown; of other files, frames are
 * counted by the rate at which the first ones are.
 */
class FileFrames {
  static async open(file) {
    const found = new FileFrames();
    const problem = `${file.name} is not a video that this browser can play.`;
    found.url = URL.createObjectURL(file);
    found.grabber = new Grabber();
    found.numTaken = found.numOthers = 0;
    found.video = Object.assign(document.createElement("video"), {
      muted: true,
      playsInline: true,
      preload: "auto",
    });
    try {
      const loaded = eventOf(found.video, "loadeddata", 20, problem);
      found.video.src = found.url;
      await loaded;
      if (!found.video.videoWidth)
        throw new PageError(
          `${file.name} has no pictures that this browser can play, maybe only sound.`,
        );
      found.first = (await found.#seek(0)) ?? 0;
      found.times = (await listedTimes(file)) ?? (await found.#countedTimes());
    } catch (error) {
      found.close();
      throw error;
    }
    const [last, count] = [found.times.at(-1), found.times.length];
    found.mean = count > 1 ? last / (count - 1) : 1 / USUAL_RATE;
    found.seconds = last + found.mean;
    return found;
  }

  /** Show the frame of a time; returns the time from which it is shown, or `null`. */
  async #seek(time) {
    const { video } = this;
    const seeked = eventOf(
      video,
      "seeked",
      20,
      `This browser can't show the frame at ${time.toFixed(1)} s of the video.`,
    );
    // The time of the frame; hidden pages, and some browsers, don't give it.
    const shown = new Promise((resolve) =>
      video.requestVideoFrameCallback?.((_, { mediaTime }) => resolve(mediaTime)),
    );
    video.currentTime = time;
    await seeked;
    return Promise.race([shown, delay(100).then(() => null)]);
  }

  async #countedTimes() {
    const { video } = this;
    const end = await this.#seek(1e9); // where browsers also find the length of recordings
    const stamps = new Set();
    for (let n = 0; n < 30; n++) stamps.add(await this.#seek(n / 100));
    const sorted = [...stamps].filter((stamp) => stamp !== null).sort((a, b) => a - b);
    const gaps = sorted
      .slice(1)
      .map((stamp, n) => stamp - sorted[n])
      .sort((a, b) => a - b);
    const gap = gaps[gaps.length >> 1] || 1 / USUAL_RATE;
    const last = (end ?? video.duration - gap) - this.first;
    return Float64Array.from(range(Math.max(Math.round(last / gap), 0) + 1), (n) => n * gap);
  }

  /** Pixels of a frame, `ImageData`. */
  async frame(number) {
    const next = this.times[number + 1] ?? this.seconds;
    const middle = (this.times[number] + next) / 2;
    const shown = await this.#seek(
      Math.min(this.first + middle, Math.max(this.video.duration - 1e-3, 0)),
    );
    this.numTaken += 1;
    this.numOthers +=
      shown !== null && Math.abs(shown - this.first - this.times[number]) > this.mean / 2;
    return this.grabber.pixels(this.video);
  }

  /** A message about frames that the browser can't find, or "". */
  get note() {
    return this.numOthers
      ? `: this browser showed ${this.numOthers} of ${this.numTaken} frames at another time`
      : "";
  }

  close() {
    this.video.removeAttribute("src");
    this.video.load();
    URL.revokeObjectURL(this.url);
  }
}

// The network -------------------------------------------------------------------------------------

const ARRAYS = {
  float32: Float32Array,
  float16: globalThis.Float16Array ?? Uint16Array,
  int32: Int32Array,
  int64: BigInt64Array,
  uint8: Uint8Array,
  bool: Uint8Array,
};

// Of the scale of the logits; graphics cards round more coarsely than processors.
const BOUNDS = { float32: 1e-3, float16: 4e-2 };

/** The network with its state, in a worker, so that the page stays usable. */
class Network {
  /** Load the model and a runtime; returns the metadata and the name of the runtime. */
  async open(report) {
    const bytes = await this.#fetched(MODEL, report);
    this.metadata = modelMetadata(bytes);
    await this.#openSession(bytes);
    return { metadata: this.metadata, provider: this.provider };
  }

  async #fetched(name, report) {
    const answer = await fetch(new URL(name, import.meta.url)).catch(() => null);
    if (!answer?.ok) throw new PageError(`${name} is missing beside this page. ${ADVICE}`);
    const total = Number(answer.headers.get("content-length"));
    const parts = [];
    let count = 0;
    for (const reader = answer.body.getReader(); ;) {
      const { done, value } = await reader.read();
      if (done) break;
      parts.push(value);
      count += value.length;
      if (total) report(Math.min(count / total, 1));
    }
    return new Uint8Array(await new Blob(parts).arrayBuffer());
  }

  async #openSession(bytes) {
    const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
    // Without a graphics card, some browsers compute on the processor, slower than WebAssembly.
    const hasGpu = adapter && !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter);
    for (const provider of hasGpu ? ["webgpu", "wasm"] : ["wasm"]) {
      try {
        const files = RUNTIMES[provider];
        const asked = await Promise.all(
          files.map((name) => fetch(this.#url(name), { method: "HEAD" }).catch(() => null)),
        );
        const missing = files.filter((_, n) => !asked[n]?.ok);
        if (missing.length)
          throw new PageError(
            `ort/${missing.join(", ort/")} is missing beside this page. ${ADVICE}`,
          );
        this.ort = await import(this.#url(files[0]));
        this.ort.env.wasm.wasmPaths = this.#url("");
        this.ort.env.wasm.numThreads = globalThis.crossOriginIsolated
          ? Math.min(navigator.hardwareConcurrency, 4)
          : 1;
        this.session = await this.ort.InferenceSession.create(bytes, {
          executionProviders: [provider],
        });
        this.provider = provider;
        await this.#prove(metadataProps(bytes)["trn_jax.golden"]);
        return;
      } catch (error) {
        if (provider !== "wasm") continue;
        throw error instanceof PageError
          ? error
          : new PageError(`The model can't be run: ${error.message}`);
      }
    }
  }

  #url = (name) => new URL(`ort/${name}`, import.meta.url).href;

  /** Check the logits of the golden input, so that no browser gives other answers unnoticed. */
  async #prove(golden) {
    if (golden === undefined) return;
    const arrays = await npzArrays(Uint8Array.from(atob(golden), (letter) => letter.charCodeAt(0)));
    const { inputs, outputs, dtype, form } = this.metadata;
    const [given, expected] = [arrays[inputs[0].name], arrays[outputs[0].name]];
    const steps = form === "stream" ? given.shape[0] : 1;
    const rows = given.shape[form === "stream" ? 1 : 0];
    const found = [];
    for (let step = 0; step < steps; step++) {
      const size = given.data.length / steps;
      found.push(...(await this.run(given.data.slice(step * size, (step + 1) * size), rows)));
    }
    this.reset();
    const scale = expected.data.reduce((most, value) => Math.max(most, Math.abs(value)), 0) || 1;
    const values = found.flatMap((row) => [...row]);
    const isEqual = values.every(
      (value, n) => Math.abs(value - expected.data[n]) <= BOUNDS[dtype] * scale,
    );
    if (!isEqual)
      throw new PageError(
        `This browser computes other scores than ${MODEL} was exported with; try another one.`,
      );
  }

  /** Begin a stream anew. */
  reset() {
    this.state = null;
  }

  /** Logits `[count][classes]` of the bytes of as many clips, or frames, which move a stream on. */
  async run(pixels, count) {
    const { inputs, outputs } = this.metadata;
    const [input, ...states] = inputs;
    const [batch, ...shape] = input.shape;
    const rows = typeof batch === "number" ? batch : count;
    if (count > rows || (states.length && rows > 1 && count < rows)) {
      throw new PageError(
        `${MODEL} takes ${rows} at once, not ${count}; export it with --batch=any.`,
      );
    }
    const size = pixels.length / count;
    const padded = rows === count ? pixels : new Uint8Array(rows * size);
    if (rows !== count) padded.set(pixels);
    const feeds = { [input.name]: new this.ort.Tensor("uint8", padded, [rows, ...shape]) };
    if (states.length) this.state ??= states.map((state) => this.#zeros(state, rows));
    states.forEach(({ name }, n) => (feeds[name] = this.state[n]));
    const found = await this.session.run(feeds);
    const [logits, ...following] = outputs;
    if (states.length) this.state = following.map(({ name }) => found[name]);
    const { data } = found[logits.name];
    const length = data.length / rows;
    return range(count).map((n) => Float32Array.from(data.subarray(n * length, (n + 1) * length)));
  }

  #zeros({ dtype, shape: [, ...rest] }, rows) {
    const size = rest.reduce((product, each) => product * each, rows);
    return new this.ort.Tensor(dtype, new ARRAYS[dtype](size), [rows, ...rest]);
  }
}

/** Answer the calls of the page, one after the other. */
function serve() {
  const network = new Network();
  let last = Promise.resolve();
  self.onmessage = ({ data: { id, name, values } }) => {
    const report = (progress) => self.postMessage({ id, progress });
    last = last.then(async () => {
      try {
        self.postMessage({ id, value: await network[name](...values, report) });
      } catch (error) {
        self.postMessage({ id, problem: error.message, isKnown: error instanceof PageError });
      }
    });
  };
}

/** The `Network` of the worker, seen from the page. */
class RemoteNetwork {
  #waiting = new Map();
  #count = 0;

  constructor() {
    this.worker = new Worker(import.meta.url, { type: "module" });
    this.worker.onmessage = ({ data: { id, value, problem, progress } }) => {
      const { resolve, reject, report } = this.#waiting.get(id);
      if (progress !== undefined) return report?.(progress);
      this.#waiting.delete(id);
      return problem === undefined ? resolve(value) : reject(new PageError(problem));
    };
    this.worker.onerror = ({ message }) => {
      for (const { reject } of this.#waiting.values())
        reject(new PageError(`The network stopped: ${message ?? "unknown"}`));
      this.#waiting.clear();
    };
  }

  #call(name, values, { report, transfer = [] } = {}) {
    return new Promise((resolve, reject) => {
      const id = this.#count++;
      this.#waiting.set(id, { resolve, reject, report });
      this.worker.postMessage({ id, name, values }, transfer);
    });
  }

  open(report) {
    return this.#call("open", [], { report });
  }

  reset() {
    return this.#call("reset", []);
  }

  /** Logits `[count][classes]` of the bytes of clips or frames, which are given away. */
  run(pixels, count) {
    return this.#call("run", [pixels, count], { transfer: [pixels.buffer] });
  }
}

/** Scores of frames that were cut into crops, by the contract and the calibration of a model. */
class Scorer {
  constructor(network, metadata) {
    Object.assign(this, { network, metadata, view: metadata.contract.view });
    this.settings = detectionSettings(metadata);
    this.batch = metadata.inputs[0].shape[0];
  }

  get isStream() {
    return this.metadata.form === "stream";
  }

  cut(image, time) {
    announce("frame", { image, time });
    return cutCrops(image, this.view);
  }

  /** Scores of clips `[clips][segments][crops]` of bytes. */
  async clips(clips, signal) {
    const views = range(numCrops(this.view)).flatMap((crop) =>
      clips.map((clip) => clip.map((frame) => frame[crop])),
    );
    const most = typeof this.batch === "number" ? this.batch : 1;
    const rows = [];
    for (let at = 0; at < views.length; at += most) {
      signal.throwIfAborted();
      const part = views.slice(at, at + most);
      rows.push(...(await this.network.run(joined(part.flat()), part.length)));
    }
    return this.#merged(rows);
  }

  /** Scores of a stream after its next frame, of which all crops are given. */
  async step(crops) {
    return this.#merged(await this.network.run(joined(crops), crops.length));
  }

  #merged(rows) {
    const { merge_views: merge, multi_label: multiLabel, calibration } = this.metadata;
    const own = this.view.merge_views;
    const scores = mergeViews(rows, !own || own === "model" ? merge : own, multiLabel);
    if (!scores.every(Number.isFinite))
      throw new PageError("The scores are no numbers: the weights of this model are broken.");
    return calibration ? calibrated(scores, calibration.temperature, multiLabel) : scores;
  }
}

function joined(arrays) {
  const found = new Uint8Array(arrays.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const array of arrays) {
    found.set(array, at);
    at += array.length;
  }
  return found;
}

/** Dispatch an event `trn-jax-...` of the document, for pages that embed this one. */
function announce(name, detail) {
  document.dispatchEvent(new CustomEvent(`trn-jax-${name}`, { detail }));
}

/** The answer for a short video. */
async function* wholeAnswers(source, scorer, signal, report) {
  const clips = clipIndices(scorer.view, source.times.length);
  const wanted = [...new Set(clips.flat())].sort((a, b) => a - b);
  const crops = new Map();
  for (const number of wanted) {
    signal.throwIfAborted();
    crops.set(number, scorer.cut(await source.frame(number), source.times[number]));
    report(crops.size / (wanted.length + clips.length));
  }
  const scores = await scorer.clips(
    clips.map((clip) => clip.map((number) => crops.get(number))),
    signal,
  );
  yield { start: 0, end: source.seconds, scores };
}

/** The answers for the windows of a long video; the memory doesn't grow with it. */
async function* windowAnswers(source, scorer, signal, report) {
  const plan = planWindows(scorer.metadata.contract, 1 / source.mean, scorer.metadata.by_frame);
  const crops = new Map();
  for (const { start, end, frames } of videoWindows(plan, source.times, source.seconds)) {
    const wanted = [...new Set(frames.flat())].sort((a, b) => a - b);
    for (const old of [...crops.keys()]) if (old < wanted[0]) crops.delete(old);
    for (const number of wanted) {
      signal.throwIfAborted();
      if (!crops.has(number))
        crops.set(number, scorer.cut(await source.frame(number), source.times[number]));
    }
    const scores = await scorer.clips(
      frames.map((clip) => clip.map((number) => crops.get(number))),
      signal,
    );
    report(end / source.seconds);
    yield { start, end, scores };
  }
}

/** The answers after the frames of a stream, for a video. */
async function* frameAnswers(source, scorer, signal, report) {
  const { length, step } = planStream(
    scorer.metadata.contract,
    1 / source.mean,
    scorer.view.num_segments,
  );
  const count = Math.max(Math.ceil(source.seconds / step - 0.5), 1);
  await scorer.network.reset();
  for (let n = 0; n < count; n++) {
    signal.throwIfAborted();
    const end = step * (n + 0.5);
    const number = shownAt(source.times, end);
    const scores = await scorer.step(scorer.cut(await source.frame(number), source.times[number]));
    report((n + 1) / count);
    yield { start: Math.max(end - length, 0), end, scores };
  }
}

const REFUSALS = {
  NotAllowedError:
    "The camera was refused. Allow it beside the address of this page, and try again.",
  NotFoundError: "There is no camera.",
  NotReadableError: "The camera can't be used; another program may have it.",
};

/** The newest frames of a camera, at regular points of time: `Capture` of prediction/live.py. */
class Camera {
  #samples = new Map();
  #grabber = new Grabber();

  static async open(video) {
    if (!navigator.mediaDevices)
      throw new PageError("Browsers give a camera only to pages of https:// or http://localhost.");
    const found = new Camera();
    try {
      found.stream = await navigator.mediaDevices.getUserMedia({ video: true, audio: false });
    } catch (error) {
      throw new PageError(REFUSALS[error.name] ?? `The camera can't be opened: ${error.message}`);
    }
    found.video = video;
    video.srcObject = found.stream;
    await video.play();
    return found;
  }

  /** Keep the crops of the newest frames, `kept` at most, `step` seconds apart. */
  start(scorer, step, kept) {
    let newest;
    let begin;
    const take = () => {
      if (!this.stream.active) return;
      begin ??= performance.now();
      const number = Math.floor((performance.now() - begin) / 1000 / step);
      if (newest === undefined || number > newest) {
        const crops = scorer.cut(this.#grabber.pixels(this.video), number * step);
        // A slow camera's frame is shown at all points until the next one.
        for (
          let n = newest === undefined ? number : Math.max(newest + 1, number - kept + 1);
          n <= number;
          n++
        ) {
          this.#samples.set(n, crops);
        }
        newest = number;
        for (const old of this.#samples.keys()) if (old <= newest - kept) this.#samples.delete(old);
      }
      this.next(take);
    };
    this.next(take);
  }

  next(act) {
    if (this.video.requestVideoFrameCallback) this.video.requestVideoFrameCallback(act);
    else setTimeout(act, 15);
  }

  /** The number of the newest sample from `due` on, and as many before it; waits for it. */
  async newest(due, span, signal) {
    for (;;) {
      signal.throwIfAborted();
      if (!this.stream.active) throw new PageError("The camera stopped.");
      const last = Math.max(...this.#samples.keys(), -1);
      if (last >= due && this.#samples.has(last - span))
        return [last, (number) => this.#samples.get(number)];
      await delay(10);
    }
  }

  close() {
    for (const track of this.stream.getTracks()) track.stop();
    this.video.srcObject = null;
  }
}

/** The answers for the newest windows, or frames of a stream, of a camera. */
async function* liveAnswers(camera, scorer, signal) {
  const { contract } = scorer.metadata;
  if (scorer.isStream) {
    const { length, step } = planStream(contract, null, scorer.view.num_segments);
    await scorer.network.reset();
    camera.start(scorer, step, 1);
    for (let due = 0; ;) {
      const [last, sample] = await camera.newest(due, 0, signal);
      due = last + 1;
      const scores = await scorer.step(sample(last));
      yield { start: Math.max(last * step - length, 0), end: last * step, scores };
    }
  }
  const plan = planWindows(contract, null, scorer.metadata.by_frame);
  const { numbers, step } = liveGrid(plan);
  const span = Math.max(...numbers.flat());
  const stride = Math.max(roundEven(plan.stride / step), 1);
  camera.start(scorer, step, span + 1 + stride);
  for (let due = span; ;) {
    const [last, sample] = await camera.newest(due, span, signal);
    due = last + stride;
    const clips = numbers.map((clip) => clip.map((number) => sample(last - span + number)));
    const scores = await scorer.clips(clips, signal);
    yield {
      start: Math.max(last * step - plan.length, 0),
      end: last * step,
      scores,
      first: last - span,
      step,
    };
  }
}

// The page ----------------------------------------------------------------------------------------

const LIVE_SECONDS = 60; // that the timeline of a camera shows
const TOP = 5; // bars

const clock = (seconds) => {
  const tenths = Math.round(seconds * 10);
  return `${Math.floor(tenths / 600)}:${((tenths % 600) / 10).toFixed(1).padStart(4, "0")}`;
};
const percent = (score) => `${Math.round(100 * score)} %`;
const colorOf = (label) => `hsl(${(label * 137.5 + 215) % 360} 50% 58%)`;

/** An element with properties and children. */
function element(name, properties = {}, ...children) {
  const found = Object.assign(document.createElement(name), properties);
  found.append(...children);
  return found;
}

const labelled = (text, name = "span", className = "") =>
  element(name, { dir: "auto", textContent: text, className });

class Page {
  #at = (id) => document.getElementById(id);
  #job = null;

  constructor() {
    this.#at("unserved").remove();
    this.network = new RemoteNetwork();
    const input = this.#at("file");
    input.addEventListener("change", () => {
      if (input.files[0]) this.start(this.#file, input.files[0]);
      input.value = ""; // the same file can be chosen again
    });
    this.#at("camera").addEventListener("click", () => this.start(this.#camera));
    this.#at("stop").addEventListener("click", () => this.stop());
    this.#at("events").addEventListener("click", ({ target }) =>
      this.#show(target.closest("button")?.dataset.start),
    );
    for (const name of ["dragenter", "dragover"])
      addEventListener(name, (event) => this.#drag(event, true));
    addEventListener("dragleave", (event) => event.relatedTarget ?? this.#drag(event, false));
    addEventListener("drop", (event) => {
      this.#drag(event, false);
      const [file] = event.dataTransfer.files;
      if (file) this.start(this.#file, file);
    });
    addEventListener("resize", () => this.#drawCursor());
    this.#at("preview").addEventListener("timeupdate", () => this.#drawCursor());
    this.ready = this.#open();
    this.ready.catch(() => null); // it is on the page
  }

  #drag(event, isOver) {
    event.preventDefault();
    document.body.classList.toggle("dragging", isOver);
  }

  async #open() {
    this.#say("Loading the model …", 0);
    try {
      const { metadata, provider } = await this.network.open((part) =>
        this.#say("Loading the model …", part),
      );
      this.scorer = new Scorer(this.network, metadata);
      this.#describe(metadata, provider);
      this.#say("");
      document.body.classList.add("ready");
      for (const id of ["file", "camera"]) this.#at(id).disabled = false;
    } catch (error) {
      this.#fail(error);
      throw error;
    }
  }

  #describe(metadata, provider) {
    const { contract, class_names: names, license } = metadata;
    const { num_segments: frames, crop_size: size } = contract.view;
    const facts = {
      Frames: scorerText(metadata, frames, size),
      "Trained on": contract.seconds
        ? `examples of ${Number(contract.seconds.toPrecision(3))} s`
        : "examples of unknown length",
      "Runs on":
        provider === "webgpu" ? "the graphics card (WebGPU)" : "the processor (WebAssembly)",
      License: license ?? "not stated",
    };
    this.#at("facts").replaceChildren(
      ...Object.entries(facts).flatMap(([name, text]) => [
        element("dt", { textContent: name }),
        labelled(text, "dd"),
      ]),
    );
    const known = names.filter((name) => name !== NOTHING);
    const most = known.length > 4 ? 3 : 4;
    const shown = known
      .slice(0, most)
      .flatMap((name, n) => [n ? ", " : " ", element("bdi", { textContent: name })]);
    const others = known.length > most ? `, and ${known.length - most} more.` : ".";
    this.#at("knows").replaceChildren(
      `It knows ${known.length} ${known.length === 1 ? "action" : "actions"}:`,
      ...shown,
      others,
    );
    this.#at("num-classes").textContent = names.length;
    this.#at("classes").replaceChildren(...names.map((name) => labelled(name, "li")));
    this.#at("about").hidden = false;
  }

  /** Begin with another video or the camera; what runs ends first. */
  async start(work, ...values) {
    this.#job?.controller.abort();
    const job = { controller: new AbortController(), before: this.#job?.done };
    this.#job = job;
    job.done = this.#run(job, work, values);
    await job.done;
  }

  async #run(job, work, values) {
    await job.before;
    if (this.#job !== job) return;
    const { signal } = job.controller;
    try {
      this.#clear();
      await this.ready;
      this.#at("stop").hidden = false;
      await work.call(this, signal, ...values);
    } catch (error) {
      if (!signal.aborted) this.#fail(error);
    } finally {
      if (this.#job === job) {
        if (document.activeElement === this.#at("stop")) this.#at("file").focus(); // not lost
        this.#at("stop").hidden = true;
        if (signal.aborted) this.#say("Stopped.");
        announce("done", { isStopped: signal.aborted });
      }
    }
  }

  /** Stop what runs; what is known stays. */
  stop() {
    this.#job?.controller.abort();
  }

  #clear() {
    for (const id of ["problem", "headline", "note", "heard"]) this.#at(id).textContent = "";
    for (const id of ["bars", "strip", "events"]) this.#at(id).replaceChildren();
    for (const id of ["answer", "timeline", "shown"]) this.#at(id).hidden = true;
    document.body.classList.add("used");
    const preview = this.#at("preview");
    preview.srcObject = null;
    if (this.url) URL.revokeObjectURL(this.url);
    preview.removeAttribute("src");
    preview.load();
  }

  async #file(signal, file) {
    this.#say("Opening the video …");
    const source = await FileFrames.open(file);
    try {
      signal.throwIfAborted();
      const preview = this.#at("preview");
      this.url = URL.createObjectURL(file);
      preview.src = this.url;
      preview.controls = true;
      this.#at("shown").hidden = false;
      const { scorer } = this;
      const long = isLong(scorer.metadata.contract, source.seconds);
      const answers = scorer.isStream ? frameAnswers : long ? windowAnswers : wholeAnswers;
      const report = (part) => this.#say("Analysing …", part);
      report(0);
      if (long) await this.#timeline(answers(source, scorer, signal, report), source.seconds);
      else {
        let last;
        for await (last of answers(source, scorer, signal, report)) announce("answer", last);
        this.#showAnswer(last.scores, scorer.settings.rejects);
      }
      this.#say(file.name + source.note);
    } finally {
      source.close();
    }
  }

  async #camera(signal) {
    this.#say("Waiting for the camera …");
    const preview = this.#at("preview");
    const camera = await Camera.open(preview);
    try {
      preview.controls = false;
      this.#at("shown").hidden = false;
      this.#say("The camera is on.");
      await this.#timeline(liveAnswers(camera, this.scorer, signal), null, (scores) =>
        this.#showAnswer(scores, true),
      );
    } finally {
      camera.close();
      this.#at("shown").hidden = true;
    }
  }

  /** Show the events of answers as they end; `seconds`: length of the video, `null` of a camera. */
  async #timeline(answers, seconds, each) {
    const { settings, metadata } = this.scorer;
    const detector = new EventDetector(metadata.class_names, settings, metadata.multi_label);
    const found = [];
    this.#at("timeline").hidden = false;
    this.seconds = seconds;
    const draw = (now) => {
      const lasting = detector.lasting.map((event) => ({ ...event, isOpen: true }));
      this.#drawStrip([...found, ...lasting], now, seconds);
    };
    const keep = (ended, now) => {
      found.push(...ended);
      this.#list(ended, seconds === null);
      draw(now);
    };
    let last = 0;
    try {
      for await (const answer of answers) {
        announce("answer", answer);
        last = answer.end;
        keep(detector.add(answer), last);
        each?.(answer.scores);
        // A camera has no end; what has left the timeline is not shown again.
        if (seconds === null)
          while (found.length && found[0].end < last - LIVE_SECONDS) found.shift();
      }
    } finally {
      if (last) keep(detector.finish(), last);
    }
    const count = found.length;
    const text = count ? `${count} ${count === 1 ? "event" : "events"}` : "No event";
    this.#at("timeline-text").textContent = `${text} in ${clock(seconds)}`;
    this.#at("heard").textContent = this.#at("timeline-text").textContent;
    announce("end", { events: found });
  }

  #drawStrip(events, now, seconds) {
    const [from, length] =
      seconds === null ? [Math.max(now - LIVE_SECONDS, 0), LIVE_SECONDS] : [0, seconds];
    const bars = events.map(({ label, start, end, isOpen }) => {
      const bar = element("i", { className: isOpen ? "open" : "" });
      const left = Math.max((start - from) / length, 0);
      bar.style.left = `${100 * left}%`;
      const right = Math.min((end - from) / length, 1);
      bar.style.width = `${100 * Math.max(right - left, 0.004)}%`;
      bar.style.backgroundColor = colorOf(label);
      bar.title = this.scorer.metadata.class_names[label];
      return bar;
    });
    const known = element("b");
    known.style.width = `${100 * Math.min((now - from) / length, 1)}%`;
    this.cursor = element("u", { hidden: seconds === null });
    this.#at("strip").replaceChildren(known, ...bars, this.cursor);
    this.#at("strip-start").textContent = clock(from);
    this.#at("strip-end").textContent = clock(from + length);
    if (seconds === null) this.#at("timeline-text").textContent = "The last minute";
    else this.#at("timeline-text").textContent = "Timeline";
    this.#drawCursor();
  }

  #drawCursor() {
    if (this.cursor && this.seconds)
      this.cursor.style.left = `${(100 * this.#at("preview").currentTime) / this.seconds}%`;
  }

  #list(events, isLive) {
    const list = this.#at("events");
    for (const { label, start, end, score } of events) {
      const swatch = element("i");
      swatch.style.backgroundColor = colorOf(label);
      const times = `${clock(start)} – ${clock(end)}`;
      const time = isLive
        ? element("time", { textContent: times })
        : element("button", { type: "button", textContent: times });
      const text = this.scorer.metadata.class_names[label];
      if (!isLive) {
        time.dataset.start = start;
        time.ariaLabel = `${times}, play ${text}`;
      }
      const name = labelled(text, "span", "name");
      const row = element(
        "li",
        {},
        swatch,
        time,
        name,
        element("span", { className: "score", textContent: percent(score) }),
      );
      if (isLive) list.prepend(row);
      else list.append(row);
    }
    while (isLive && list.children.length > 20) list.lastChild.remove();
  }

  #show(start) {
    if (start === undefined) return;
    const preview = this.#at("preview");
    preview.currentTime = Number(start);
    preview.play().catch(() => null);
  }

  #showAnswer(scores, rejects) {
    const { metadata, settings } = this.scorer;
    const names = metadata.class_names;
    const accepted = acceptedClasses(scores, { ...settings, rejects }, metadata.multi_label);
    const best = topClasses(scores, TOP);
    const labels = accepted.filter((label) => names[label] !== NOTHING);
    const text =
      labels.map((label) => names[label]).join(", ") ||
      (accepted.length ? "Nothing" : "None of these");
    const headline = this.#at("headline");
    this.#at("answer").hidden = false;
    if (headline.textContent !== text) {
      headline.textContent = text;
      this.#at("heard").textContent =
        labels.length === 1 ? `${text}, ${percent(scores[labels[0]])}` : text;
    }
    headline.classList.toggle("none", !labels.length);
    this.#at("note").textContent = accepted.length ? "" : "No class reaches its threshold.";
    const bars = best.map((label) => {
      const bar = element("i");
      bar.style.width = `${100 * scores[label]}%`;
      const isAccepted = accepted.includes(label);
      return element(
        "li",
        { className: isAccepted ? "accepted" : "" },
        labelled(names[label], "span", "name"),
        element("span", { className: "score", textContent: percent(scores[label]) }),
        element("span", { className: "bar", ariaHidden: "true" }, bar),
      );
    });
    this.#at("bars").replaceChildren(...bars);
  }

  /** Show what happens, with a share that is done; without text, nothing happens. */
  #say(text, part) {
    const [status, progress] = [this.#at("status"), this.#at("progress")];
    if (status.textContent !== text) status.textContent = text;
    progress.hidden = part === undefined;
    if (part !== undefined) progress.value = part;
  }

  #fail(error) {
    this.#say("");
    this.#at("problem").textContent =
      error instanceof PageError ? error.message : `Something went wrong: ${error.message}`;
  }
}

function scorerText({ form }, frames, size) {
  const pixels = `${size} × ${size} pixels`;
  return form === "stream" ? `one after the other, ${pixels}` : `${frames} per answer, ${pixels}`;
}

if (typeof document !== "undefined") globalThis.page = new Page();
else if (typeof WorkerGlobalScope !== "undefined") serve();
