"""One small module per kind of log, and the list of all."""

from powerflow.trace.formats.format import Format as Format
from powerflow.trace.formats.itp import ITP, ITP_MODELS
from powerflow.trace.formats.philly import PHILLY, PHILLY_WAITS
from powerflow.trace.formats.pollux import POLLUX
from powerflow.trace.formats.tiresias import TIRESIAS

FORMATS: tuple[Format, ...] = (PHILLY, PHILLY_WAITS, ITP, ITP_MODELS, POLLUX, TIRESIAS)
