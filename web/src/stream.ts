// Keep the state up to date, also after a lost connection, a sleep of this machine or a restart of the controller.

import { signal } from "@preact/signals";
import type { State } from "./model";
import { patched } from "./patch";

export const state = signal<State | null>(null);
// "live", or since when nothing has come (Unix milliseconds), or what the controller says is wrong
export const lostAt = signal<number | null>(null);
export const trouble = signal("");

const SILENT_MS = 12_000; // no event for so long: the connection is dead, even if the browser has not noticed
const MOST_WAIT_MS = 10_000;

let source: EventSource | null = null;
let lastId = "";
let heardAt = Date.now();
let tries = 0;
let timer = 0;

function heard(event: MessageEvent<string>): void {
  heardAt = Date.now();
  tries = 0;
  lastId = event.lastEventId;
  lostAt.value = null;
  trouble.value = "";
}

function take(next: State): void {
  const mine = document.querySelector<HTMLScriptElement>("script[data-live]");
  // another version of the service has another script
  if (mine && next.script && new URL(mine.src).pathname !== next.script) location.reload();
  state.value = next;
}

export function open(): void {
  close();
  heardAt = Date.now();
  const made = new EventSource(`/live${lastId ? `?after=${encodeURIComponent(lastId)}` : ""}`);
  source = made;
  made.addEventListener("state", (event) => {
    heard(event);
    take(JSON.parse(event.data) as State);
  });
  made.addEventListener("change", (event) => {
    heard(event);
    if (state.value) take(patched(state.value, JSON.parse(event.data)) as State);
  });
  made.addEventListener("trouble", (event) => {
    heardAt = Date.now();
    trouble.value = JSON.parse(event.data) as string;
  });
  made.onerror = () => again(made);
}

function close(): void {
  clearTimeout(timer);
  source?.close();
  source = null;
}

function again(failed: EventSource): void {
  if (failed !== source) return;
  close();
  lostAt.value ??= heardAt;
  tries += 1;
  timer = window.setTimeout(() => void knock(), Math.min(500 * 2 ** tries, MOST_WAIT_MS) * (0.75 + Math.random() / 2));
}

// A revoked token ends the stream; the page itself then shows the form for a token.
async function knock(): Promise<void> {
  try {
    const answer = await fetch("/", { method: "HEAD", cache: "no-store" });
    if (answer.status === 401) location.reload();
  } catch {
    // nobody answers: the next try will tell
  }
  open();
}

export function start(): void {
  open();
  window.setInterval(() => {
    if (source && Date.now() - heardAt > SILENT_MS) again(source);
  }, 2_000);
  // nobody looks at a hidden page; and after a sleep the connection is gone
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  window.addEventListener("online", open);
}
