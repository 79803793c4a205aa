/** The pictures and clips that a request names: sends files to the server, and shows what the server keeps.
 *
 * An input is {id, name, width, height, mimeType, expiresAt}; `id` is that of a file or of an output of one's own.
 */

import { getBytes, post } from "./api.js";

const MAX_BYTES = 32 * 2 ** 20;

const addresses = new Map(); // id → promise of the address of the bytes in the browser's memory

/** Sends a file. Throws an error whose text names the file. */
export async function upload(file) {
  if (file.size > MAX_BYTES) throw new Error(`${file.name} is larger than 32 MiB.`);
  try {
    const kept = await post("/api/files", file);
    addresses.set(kept.fileId, Promise.resolve(URL.createObjectURL(file)));
    return {
      id: kept.fileId,
      name: file.name,
      width: kept.width,
      height: kept.height,
      mimeType: kept.mimeType,
      expiresAt: kept.expiresAt,
    };
  } catch (error) {
    error.message = error.message.replace(/^file\b/, file.name);
    throw error;
  }
}

/** An output of a job as an input. */
export const fromOutput = (job, output) => ({
  id: output.fileId,
  name: job.prompt ? `“${short(job.prompt)}”` : "A result",
  width: output.width,
  height: output.height,
  mimeType: output.mimeType,
  expiresAt: job.expiresAt,
});

const short = (text) => (text.length > 40 ? `${text.slice(0, 39)}…` : text);

/** The address of an input for an element that shows it. Throws an ApiError with code 404 when it has expired. */
export function addressOf(id) {
  if (!addresses.has(id)) {
    const found = load(id);
    addresses.set(id, found);
    found.catch(() => addresses.delete(id));
  }
  return addresses.get(id);
}

async function load(id) {
  return URL.createObjectURL(await getBytes(`/api/files/${id}`));
}

/** Whether the server still keeps it. */
export const isKept = ({ expiresAt }) => !expiresAt || new Date(expiresAt) > new Date();
