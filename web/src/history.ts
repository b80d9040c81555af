// Power and prices of the last hours: read once, then only what has come since.

import { signal } from "@preact/signals";

export interface Sample {
  time_s: number;
  power_w: number;
  cap_w: number | null;
  gpu_price: number;
  energy_price: number;
}

const EVERY_MS = 10_000;
const KEPT_S = 6 * 3600;

export const samples = signal<Sample[]>([]);

async function read(): Promise<void> {
  if (document.hidden) return;
  const known = samples.value;
  const last = known.at(-1)?.time_s ?? 0;
  const answer = await fetch(`/api/v1/recent?after_s=${last}`, { cache: "no-store" });
  if (!answer.ok) return;
  const { items } = (await answer.json()) as { items: Sample[] };
  const end = items.at(-1)?.time_s;
  if (end !== undefined) samples.value = [...known, ...items].filter((one) => one.time_s > end - KEPT_S);
}

export function follow(): void {
  // without an answer the figures stay as they are: the top of the page says that the connection is lost
  const next = () => void read().catch(() => undefined);
  next();
  window.setInterval(next, EVERY_MS);
  document.addEventListener("visibilitychange", next);
}
