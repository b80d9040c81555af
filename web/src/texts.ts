// Texts that change at nearly every refresh, as signals: a new text is set in its place, and nothing else is drawn.

import { signal, type Signal } from "@preact/signals";

export class Texts {
  private readonly known = new Map<string, Signal<string>>();

  // The signal of a text, to be put into an element. It is made at the first call.
  of(key: string, text: string): Signal<string> {
    let found = this.known.get(key);
    if (!found) this.known.set(key, (found = signal(text)));
    return found;
  }

  set(key: string, text: string): void {
    const found = this.known.get(key);
    if (found) found.value = text;
  }
}

// Return True if two values are the same, also as lists of the same texts.
export function same(one: unknown, other: unknown): boolean {
  if (one === other) return true;
  if (!Array.isArray(one) || !Array.isArray(other) || one.length !== other.length) return false;
  return one.every((value, i) => value === other[i]);
}
