/** Formats numbers, times and file names for display. */

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

export function bytes(n) {
  let at = 0;
  while (n >= 1000 && at < UNITS.length - 1) {
    n /= 1024;
    at += 1;
  }
  return `${at === 0 || n >= 100 ? Math.round(n) : n.toFixed(1)} ${UNITS[at]}`;
}

export function seconds(s) {
  if (s === null || s === undefined) return "unknown";
  if (s < 1) return `${Math.max(1, Math.round(s * 1000))} ms`;
  if (s < 10) return `${s.toFixed(1)} s`;
  if (s < 90) return `${Math.round(s)} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  return `${(s / 3600).toFixed(1)} h`;
}

/** Remaining time, rounded, since it is an estimate. */
export function left(s) {
  if (s === null || s === undefined) return "";
  return s < 1.5 ? "about a second left" : `about ${seconds(Math.round(s))} left`;
}

export function when(iso) {
  if (!iso) return "";
  const date = new Date(iso);
  const sameDay = date.toDateString() === new Date().toDateString();
  return date.toLocaleString(undefined, sameDay ? { timeStyle: "short" } : { dateStyle: "medium", timeStyle: "short" });
}

export function count(n, one, many = `${one}s`) {
  return `${n.toLocaleString()} ${n === 1 ? one : many}`;
}

/** The file name for the download of an output. */
export function fileName(job, output, index) {
  const endings = {
    "image/png": "png",
    "image/jpeg": "jpg",
    "image/webp": "webp",
    "image/gif": "gif",
    "video/mp4": "mp4",
    "video/webm": "webm",
    "application/zip": "zip",
  };
  return `${job.jobId}-${index}.${endings[output.mimeType] ?? "bin"}`;
}
