"""Read logs in many formats, each in its own module; `FORMATS` lists all formats."""

from powerflow.trace.formats.acme import ACME
from powerflow.trace.formats.format import Format as Format
from powerflow.trace.formats.generic import GENERIC
from powerflow.trace.formats.helios import HELIOS
from powerflow.trace.formats.itp import ITP, ITP_MODELS
from powerflow.trace.formats.philly import PHILLY, PHILLY_WAITS
from powerflow.trace.formats.philly_json import PHILLY_JSON
from powerflow.trace.formats.pollux import POLLUX
from powerflow.trace.formats.sacct_json import SACCT_JSON
from powerflow.trace.formats.sacct_text import SACCT
from powerflow.trace.formats.swf import SWF
from powerflow.trace.formats.tiresias import TIRESIAS

FORMATS: tuple[Format, ...] = (
    GENERIC,
    PHILLY,
    PHILLY_WAITS,
    PHILLY_JSON,
    HELIOS,
    ACME,
    ITP,
    ITP_MODELS,
    POLLUX,
    TIRESIAS,
    SACCT,
    SACCT_JSON,
    SWF,
)
