// Apply a JSON merge patch (RFC 7396). What has not changed stays the same object, so that it is not drawn again.

type Json = unknown;

const isObject = (value: Json): value is Record<string, Json> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

export function patched(before: Json, patch: Json): Json {
  if (!isObject(patch)) return patch;
  const after: Record<string, Json> = isObject(before) ? { ...before } : {};
  for (const [key, value] of Object.entries(patch)) {
    if (value === null) delete after[key];
    else after[key] = patched(after[key], value);
  }
  return after;
}
