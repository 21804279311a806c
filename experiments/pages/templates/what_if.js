"use strict";

// Costs, bars and rules of experiments/decision, for sliders that move the assumptions.
// tests/experiments/decision/test_what_if.py holds its answers to those of Python.

/** US dollars for so many images in a month; as `ByImage` and `ByMachine`. */
function paid(tariff, images) {
  if (!tariff.steps) return machines(images, tariff.carries) * tariff.usd;
  let usd = 0;
  let end = images;
  for (const [start, price] of [...tariff.steps].reverse()) {
    usd += (Math.max(0, end - start) * price) / tariff.unit;
    end = Math.min(end, start);
  }
  return usd;
}

function machines(images, carries) {
  return carries === null ? 1 : Math.max(1, Math.ceil(images / carries));
}

/** The total of a way over the horizon in US dollars; as `Option.total`. */
function total(way, values, start) {
  const dearer = values[way.prices] === undefined ? 1 : values[way.prices] / start[way.prices];
  const share = values[way.hours_by] ?? 1;
  const hours = way.hours === null ? values.engineering_hours : share * way.hours;
  const upkeep = way.hours_a_month === null ? values.maintenance_hours_per_year / 12 : share * way.hours_a_month;
  const serving = way.tariffs.reduce((sum, tariff) => sum + paid(tariff, values.images_per_month), 0);
  const month = values.hourly_rate * upkeep + dearer * (way.retraining + serving + way.storage);
  const months = Math.min(12 * values.horizon_years, way.ends ?? Infinity);
  return values.hourly_rate * hours + way.labels + dearer * way.training + months * month;
}

/** The wait for earlier images that 95 % of images do not exceed, in units of an answer; as `_wait`. */
function longestWait(load) {
  let [low, high] = [0, 3 / (1 - load)];
  for (let step = 0; step < 50; step++) {
    const wait = (low + high) / 2;
    let sum = 0;
    for (let k = 0, factorial = 1; k <= wait; factorial *= ++k) {
      sum += (Math.exp(load * (wait - k)) * (load * (k - wait)) ** k) / factorial;
    }
    if ((1 - load) * sum < 0.95) low = wait;
    else high = wait;
  }
  return low;
}

/** Each bar that concerns a way, and how it stands against it: clears | misses | unknown; as `ways_of`. */
function standings(way, values, loadLimit) {
  const found = { accuracy: "unknown" };
  if (way.accuracy) {
    const [low, high] = way.accuracy;
    found.accuracy = low >= values.accuracy_bar ? "clears" : high < values.accuracy_bar ? "misses" : "unknown";
  }
  if (way.latency) {
    const { seconds, bounded, uneven, queue } = way.latency;
    found.latency = "unknown";
    if (seconds !== null) {
      let wait = 0;
      if (queue) {
        const copies = machines(values.images_per_month, loadLimit * queue.capacity);
        const load = values.images_per_month / (queue.capacity * copies);
        wait = queue.mean * longestWait(load);
      }
      const kept = (time) => 1000 * time <= values.latency_bar_ms;
      if (uneven && wait > 0) found.latency = kept(seconds) ? "unknown" : "misses"; // as `_without_wait`
      else found.latency = kept(seconds + wait) ? "clears" : bounded ? "unknown" : "misses";
    }
  }
  if (way.ends !== null) found.horizon = way.ends >= 12 * values.horizon_years ? "clears" : "misses";
  return { ...found, ...way.settled };
}

/** The decision under the values of the sliders; as `judge`. */
function decide(model, values) {
  const start = Object.fromEntries(model.sliders.map((slider) => [slider.name, slider.value]));
  const ways = model.ways.map((way) => {
    const against = Object.entries(standings(way, values, model.load_limit));
    const those = (standing) => against.filter(([, is]) => is === standing).map(([bar]) => bar);
    const misses = those("misses");
    return { ...way, total: total(way, values, start), misses, unknown: misses.length ? [] : those("unknown") };
  });
  const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  const cheapest = (some) =>
    some.sort((a, b) => a.total - b.total || compare(a.kind, b.kind) || compare(a.title, b.title));
  const sure = cheapest(ways.filter((way) => !way.misses.length && !way.unknown.length));
  const best = sure[0] ?? null;
  let contender = values.known_only ? null : (cheapest(ways.filter((way) => way.unknown.length))[0] ?? null);
  if (contender && best && !(best.total - contender.total > model.close * best.total)) contender = null;
  const close = sure.filter((way) => way.total - best.total <= model.close * way.total);
  const near = close.filter((way, place) => close.findIndex((other) => other.kind === way.kind) === place);
  const holds = [
    !best && !contender,
    contender?.kind === "adapt" && !contender.measured,
    contender !== null,
    near.length > 1,
    best?.kind === "build",
    best?.kind === "adapt",
    best?.kind === "buy",
  ];
  const rule = holds.indexOf(true);
  const { answer } = model.rules[rule];
  const named = answer === "Either" ? near : [contender ?? best].filter((way) => way);
  return { ways, best, contender, named, rule, headline: headline(answer, best, contender) };
}

/** The accuracy was measured, but its interval lies on both sides of the bar. */
function isClose(way) {
  return way.measured && way.complete && way.unknown.includes("accuracy");
}

function headline(answer, best, contender) {
  if (answer === "Not yet") {
    if (!contender) return "Not yet: nothing clears the bars";
    const close = isClose(contender) && contender.unknown.length === 1;
    if (close) return `Not yet: ${contender.title} is too close to the bar`;
    const untested = contender.kind === "build" && !contender.measured;
    return untested ? "Not yet: train and test our own" : `Not yet: measure ${contender.title}`;
  }
  if (answer === "Adapt") return contender ? `Adapt and test ${contender.title}` : `Adapt ${best.title}`;
  return answer === "Buy" ? `Buy ${best.title}` : answer;
}
