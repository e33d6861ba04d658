// What has happened between two states, as lines of text. Pure.

const PREEMPTIONS = {
  keep: "preempted in place",
  swap: "swapped out to the host",
  recompute: "preempted, to be computed again",
};

function names(before, now, kind) {
  const known = new Map(before.requests.map((each) => [each.number, each.preemptions[kind]]));
  return now.requests
    .filter((each) => each.preemptions[kind] > (known.get(each.number) ?? 0))
    .map((each) => each.request_id);
}

function preemptions(before, now) {
  return Object.entries(PREEMPTIONS).flatMap(([kind, text]) => {
    const count = now.counts.preemptions[kind] - before.counts.preemptions[kind];
    if (count <= 0) return [];
    const who = names(before, now, kind).slice(0, 4).join(", ");
    return [`${count} ${text}${who && ` (${who})`}`];
  });
}

function failures(before, now) {
  return Object.entries(now.counts.failures).flatMap(([cause, count]) => {
    const more = count - (before.counts.failures[cause] ?? 0);
    return more > 0 ? [`${more} failed: ${cause}`] : [];
  });
}

/** The events between the states `before` and `now`. */
export function changes(before, now) {
  const restarts = now.counts.restarts - before.counts.restarts;
  const health = now.shards.health;
  return [
    ...(health === before.shards.health ? [] : [`shards: ${health}`]),
    ...(restarts > 0 ? [`shards restarted`] : []),
    ...preemptions(before, now),
    ...failures(before, now),
  ];
}
