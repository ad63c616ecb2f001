// One key of one run as arrays, and the arithmetic on it. Pure: knows neither the page nor plotly.

export const finite = (value) => typeof value === "number" && Number.isFinite(value);

export class Curve {
  // From the series endpoint: x and y of the last point per bucket, min and max where buckets hold several points.
  constructor({ x = [], y = [], min = null, max = null, count = 0, non_finite = [], num_non_finite = 0 } = {}, seq = 0) {
    const gaps = (column) => column && column.map((value) => (finite(value) ? value : null));
    this.x = x;
    this.y = gaps(y);
    this.min = gaps(min);
    this.max = gaps(max);
    this.count = count;
    this.nonFinite = non_finite;
    this.numNonFinite = num_non_finite;
    this.seq = seq;
  }

  get isThinned() {
    return this.count > this.x.length;
  }

  // A live point. False when it is known already: the stream and the first load overlap.
  append(x, value, seq) {
    if (seq <= this.seq || !finite(x)) return false;
    this.seq = seq;
    if (this.x.length && x <= this.x.at(-1)) return false;
    this.x.push(x);
    this.y.push(finite(value) ? value : null);
    this.min?.push(finite(value) ? value : null);
    this.max?.push(finite(value) ? value : null);
    this.count += 1;
    if (!finite(value)) {
      this.nonFinite.push({ x, value: String(value) });
      this.numNonFinite += 1;
    }
    return true;
  }

  // Forget everything beyond x: a resumed run makes those points again.
  rewind(x) {
    const keep = upperBound(this.x, x);
    const lost = this.x.length - keep;
    for (const column of [this.x, this.y, this.min, this.max]) if (column) column.length = keep;
    this.nonFinite = this.nonFinite.filter((point) => point.x <= x);
    this.numNonFinite = this.nonFinite.length;
    this.count = this.min ? Math.round((this.count * keep) / Math.max(1, keep + lost)) : keep;
  }

  // The point nearest to x: {x, y}, or null.
  near(x) {
    if (!this.x.length) return null;
    const after = Math.min(upperBound(this.x, x), this.x.length - 1);
    const before = Math.max(0, after - 1);
    const index = Math.abs(this.x[before] - x) <= Math.abs(this.x[after] - x) ? before : after;
    return { index, x: this.x[index], y: this.y[index] };
  }
}

// How many elements of an ascending array are <= x.
export function upperBound(sorted, x) {
  let low = 0;
  let high = sorted.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (sorted[middle] <= x) low = middle + 1;
    else high = middle;
  }
  return low;
}

// Exponential moving average, bias-corrected as in Adam: early values are not drawn towards zero. Gaps stay gaps.
export function smoothed(values, weight) {
  let sum = 0;
  let share = 0;
  return values.map((value) => {
    if (value === null) return null;
    sum = weight * sum + (1 - weight) * value;
    share = weight * share + (1 - weight);
    return sum / share;
  });
}

// Four significant digits, and no more characters than a glance can take.
export function shortNumber(value) {
  if (!finite(value)) return value === null || value === undefined ? "–" : String(value);
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3) return value.toExponential(2).replace("e+", "e");
  return size >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(4)));
}

// Seconds as people say them: 12 s, 3 min 20 s, 2 h 05 min, 3 d 4 h.
export function duration(seconds) {
  if (!finite(seconds)) return "–";
  const whole = Math.max(0, Math.round(seconds));
  if (whole < 60) return `${whole} s`;
  const [minutes, hours, days] = [Math.floor(whole / 60), Math.floor(whole / 3600), Math.floor(whole / 86400)];
  if (minutes < 60) return `${minutes} min ${whole % 60} s`;
  if (hours < 48) return `${hours} h ${minutes % 60} min`;
  return `${days} d ${hours % 24} h`;
}
