// Numbers for people.

/** Seconds as ms or s; a dash for null. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 0.001) return `${(seconds * 1000).toFixed(2)} ms`;
  if (seconds < 1) return `${(seconds * 1000).toFixed(0)} ms`;
  return seconds < 100 ? `${seconds.toFixed(1)} s` : `${seconds.toFixed(0)} s`;
}

/** A share from 0 to 1 as a percentage. */
export function percent(share) {
  return `${(100 * share).toFixed(0)} %`;
}

/** The sum of the values of an object. */
export function total(counts) {
  return Object.values(counts).reduce((sum, count) => sum + count, 0);
}
