// Requests to the gateway that serves this page. `records.py` of the gateway describes the JSON.

const KEY = "maskrestore-key";
const SILENCE = 25_000; // the gateway sends a sign of life every 10 seconds

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const hasKey = () => sessionStorage.getItem(KEY) !== null;

export function setKey(key) {
  if (key === null) sessionStorage.removeItem(KEY);
  else sessionStorage.setItem(KEY, key);
}

/** Throws ApiError for an answer that is an error, TypeError without an answer. */
export async function call(path, { method = "GET", body, signal, headers = {} } = {}) {
  const key = sessionStorage.getItem(KEY);
  // Without the first header the gateway would have the browser ask for a name and a password.
  const sent = { "X-Requested-With": "maskrestore", ...headers };
  if (key !== null) sent.Authorization = `Bearer ${key}`;
  const answer = await fetch(new URL(path, document.baseURI), { method, body, signal, headers: sent, cache: "no-store" });
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => null);
  throw new ApiError(answer.status, told?.error ?? `the gateway answered ${answer.status}`);
}

export const json = async (path, options) => (await call(path, options)).json();

/** Server-sent events behind one of them. (EventSource can send no key.) */
export async function* events(path, last, stop) {
  const silence = new AbortController();
  let timer;
  const alive = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(), SILENCE);
  };
  alive();
  try {
    const signal = AbortSignal.any([stop, silence.signal]);
    const answer = await call(path, { signal, headers: { "Last-Event-ID": last } });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      alive();
      const parts = (rest + value).split("\n\n");
      rest = parts.pop();
      for (const part of parts) {
        const data = part.split("\n").find((line) => line.startsWith("data: "));
        if (data) yield JSON.parse(data.slice(6));
      }
    }
  } finally {
    clearTimeout(timer);
    silence.abort(); // of a reader who left
  }
}

/** What to tell of a failure. */
export function told(error) {
  return error instanceof ApiError ? error.message : "the gateway does not answer";
}
