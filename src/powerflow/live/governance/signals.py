"""Fetch and store the signals of a live cluster: what a kWh costs (tariff) or emits (carbon) over time.

Fetched values are added to the known values. If a fetch fails, the known values are used until they are too old. After
that, the signal's fallback value is used (`powerflow.energy.signal`), and all results say so.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import NamedTuple

import numpy as np

from powerflow.api.governance import AuditRecord, SignalOrder, SignalRecord, audited
from powerflow.api.records import Caller, NotFound
from powerflow.energy.kinds import MAX_AGE_S, Kind
from powerflow.energy.poll import poll
from powerflow.energy.signal import COMPARED_S, Signal, constant, joined, read_signal
from powerflow.errors import InputError
from powerflow.store.store import Store
from powerflow.units import DAY_S

#: Setting in the store: all signals.
SIGNALS = "signals"
#: How often a URL is fetched, seconds.
POLL_S = 300.0
#: How long fetched values are kept, seconds, so that charges of that time can be priced.
KEPT_S = 400 * DAY_S


@dataclass(frozen=True, slots=True)
class StoredSignal:
    """A signal (tariff or carbon intensity over time), as the store keeps it: plain numbers."""

    kind: Kind
    source: str
    time_s: Sequence[float]
    value: Sequence[float]
    fallback: float
    max_age_s: float | None
    weight: float
    url: str
    by: str
    set_s: float
    currency: str = ""

    def signal(self) -> Signal:
        """Return the signal as computations need it."""
        if self.max_age_s is None:
            return constant(self.kind, self.fallback, self.currency)
        times, values = np.array(self.time_s), np.array(self.value)
        return Signal(self.kind, self.source, times, values, self.fallback, self.max_age_s, self.currency)


class _Known(NamedTuple):
    """A signal in the form in which it is stored, and in the form that is used for computing."""

    stored: StoredSignal
    signal: Signal


class Signals:
    """Keep all signals of one cluster.

    Any thread may call `set`, `drop` and `show`; only the controller's loop may call the rest.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()  # held from reading the signals to storing changed ones
        self._asked_s: dict[str, float] = {}  # by URL
        self._failed: dict[Kind, str] = {}
        self._known: dict[Kind, _Known] | None = None
        self._fetched: deque[tuple[StoredSignal, Signal | str]] = deque()  # fetched, not yet taken by the loop

    def clock_set(self) -> None:
        """Let `refresh` fetch all signals again, because the machine's clock was set."""
        self._asked_s.clear()

    # -- from outside ---------------------------------------------------------------------------------------------

    def set(self, order: SignalOrder, caller: Caller, now_s: float) -> SignalRecord:
        """Store a signal, and return it. It replaces a signal of the same kind (tariff or carbon).

        Raises:
            InputError: The order is not a valid signal, or its URL cannot be fetched.
        """
        signal = _read(order)
        new = _stored(order, signal, caller, now_s)
        what = {"source": new.source, "weight": new.weight, "fallback": new.fallback}
        with self._lock:
            self._keep(
                self._read_all() | {new.kind: new},
                audited(caller, now_s, "signal set", new.kind, what),
            )
            self._failed.pop(new.kind, None)
        return self._show(new, now_s)

    def drop(self, kind: Kind, caller: Caller, now_s: float) -> SignalRecord:
        """Delete the signal of one kind (tariff or carbon) and return it.

        Raises:
            NotFound: There is no signal of this kind.
        """
        with self._lock:
            known = self._read_all()
            if kind not in known:
                raise NotFound(f"there is no {kind} signal")
            gone = known.pop(kind)
            what = {"source": gone.source}
            self._keep(known, audited(caller, now_s, "signal dropped", kind, what))
            self._failed.pop(kind, None)
        return self._show(gone, now_s)

    def show(self, now_s: float) -> Sequence[SignalRecord]:
        """Return all signals as records for the API."""
        return [self._show(stored, now_s) for stored, _ in self._all().values()]

    def signals(self) -> Sequence[Signal]:
        """Return all signals as computations need them."""
        return [signal for _, signal in self._all().values()]

    def tariff(self) -> Signal | None:
        """Return the tariff; None if none is set."""
        return next((signal for signal in self.signals() if signal.kind == "tariff"), None)

    def weighted(self) -> Sequence[tuple[Signal, float]]:
        """Return the signals that change the energy price, with their weights."""
        return [(signal, stored.weight) for stored, signal in self._all().values() if stored.weight > 0]

    def notices(self, now_s: float) -> Sequence[str]:
        """Return the signals that cannot be fetched, or for which the fallback value is used, one line each."""
        fell_back = [signal.at(now_s).fell_back for _, signal in self._all().values()]
        return [why for why in (*self._failed.copy().values(), *fell_back) if why]

    # -- the loop -------------------------------------------------------------------------------------------------

    def refresh(self, now_s: float) -> None:
        """Store the values that threads have fetched, and start threads for the URLs that are due.

        Raises:
            StoreError: Fetched values cannot be stored. The next call stores them.
        """
        while self._fetched:
            self._take(*self._fetched[0], now_s)
            self._fetched.popleft()
        for stored, _ in self._all().values():
            if stored.url and now_s - self._asked_s.get(stored.url, -math.inf) >= POLL_S:
                self._asked_s[stored.url] = now_s
                threading.Thread(target=self._fetch, args=(stored,), name="powerflow-signal", daemon=True).start()

    def _fetch(self, asked: StoredSignal) -> None:
        try:
            new = poll(asked.url, asked.kind, fallback=asked.fallback, max_age_s=asked.max_age_s or MAX_AGE_S)
        except InputError as error:
            said = f"{asked.kind} signal of {error.where}: {error.what}"
            self._fetched.append((asked, f"{said}; the last values are used until they are too old, then the fallback"))
        else:
            self._fetched.append((asked, new))

    def _take(self, asked: StoredSignal, new: Signal | str, now_s: float) -> None:
        """Add fetched values to the known values of a signal, unless the signal was replaced.

        If there are none, note why.
        """
        with self._lock:
            known = self._read_all()
            stored = known.get(asked.kind)
            if stored is None or (stored.url, stored.set_s) != (asked.url, asked.set_s):
                return
            if isinstance(new, str):
                self._failed[asked.kind] = new
                return
            self._failed.pop(asked.kind, None)
            whole = joined(stored.signal(), new)
            recent = whole.time_s >= now_s - KEPT_S
            time_s, value = whole.time_s[recent].tolist(), whole.value[recent].tolist()
            self._keep(known | {stored.kind: replace(stored, time_s=time_s, value=value)})

    def _all(self) -> dict[Kind, _Known]:
        known = self._known
        if known is None:
            with self._lock:
                known = self._known = _known(self._read_all())
        return known

    def _read_all(self) -> dict[Kind, StoredSignal]:
        return {kind: StoredSignal(**kept) for kind, kept in self._store.get(SIGNALS, {}).items()}

    def _keep(self, signals: dict[Kind, StoredSignal], *whats: AuditRecord) -> None:
        self._store.govern(SIGNALS, {kind: asdict(signal) for kind, signal in signals.items()}, whats)
        self._known = _known(signals)

    def _show(self, stored: StoredSignal, now_s: float) -> SignalRecord:
        signal = stored.signal()
        reading = signal.at(now_s)
        return SignalRecord(
            kind=stored.kind,
            source=stored.source,
            value=reading.value,
            fell_back=reading.fell_back or self._failed.get(stored.kind, ""),
            mean=signal.mean(now_s - COMPARED_S, now_s),
            weight=stored.weight,
            fallback=stored.fallback,
            until_s=stored.time_s[-1] + stored.max_age_s if stored.max_age_s and stored.time_s else None,
            by=stored.by,
            set_s=stored.set_s,
            currency=stored.currency,
        )


def _known(signals: Mapping[Kind, StoredSignal]) -> dict[Kind, _Known]:
    return {kind: _Known(stored, stored.signal()) for kind, stored in signals.items()}


def _read(order: SignalOrder) -> Signal:
    """Return the signal that an operator sets.

    Raises:
        InputError: The order is not a valid signal, or its URL cannot be fetched.
    """
    given = [order.csv is not None, order.url is not None, order.constant is not None]
    if sum(given) != 1:
        raise InputError("a signal is a CSV, a URL or a constant", where=order.kind, fix="give one of the three")
    if order.currency and order.kind != "tariff":
        raise InputError("only a tariff has a currency", where="currency", fix="leave it out")
    fallback = 0.0 if order.fallback is None else order.fallback
    if order.constant is not None:
        return constant(order.kind, order.constant, order.currency)
    if order.url is not None:
        signal = poll(order.url, order.kind, fallback=fallback, max_age_s=order.max_age_s)
    else:
        source = order.source or "a CSV"
        signal = read_signal(order.csv or "", order.kind, source=source, fallback=fallback, max_age_s=order.max_age_s)
    if order.fallback is not None:
        return signal
    return replace(signal, fallback=round(float(signal.value.mean()), 6))


def _stored(order: SignalOrder, signal: Signal, caller: Caller, now_s: float) -> StoredSignal:
    lasting = order.constant is not None
    return StoredSignal(
        kind=order.kind,
        source=signal.source,
        time_s=[] if lasting else signal.time_s.tolist(),
        value=[] if lasting else signal.value.tolist(),
        fallback=signal.fallback,
        max_age_s=None if lasting else signal.max_age_s,
        weight=order.weight,
        url=order.url or "",
        by=caller.user,
        set_s=now_s,
        currency=order.currency,
    )
