"""The forms that flows are exported in, by name."""

from typing import Literal, get_args

from ctk.render import eventlog
from ctk.render.lines import Encoder, Records, Templates, TimeUnit

Form = Literal["jsonl", "log", "csv", "tsv", "json", "parquet", "ecs", "otel"]
FORMS: tuple[Form, ...] = get_args(Form)

# One whole each: they end with something, so they cannot be gone on with.
WHOLE: tuple[Form, ...] = ("json", "parquet")
# What has the keys of a flow, its times in a unit that can be chosen among them.
WITH_KEYS: tuple[Form, ...] = ("jsonl", "csv", "tsv", "json", "parquet")


def encoder(form: Form, *, time: TimeUnit = "ns", accounting: bool = False) -> Encoder:
    """Give what makes lines of this form; `accounting` is for log, see eventlog.py."""
    match form:
        case "log":
            return Records(eventlog.log_line if accounting else eventlog.event_line)
        case "ecs":
            from ctk.render.ecs import ecs_line

            return Records(ecs_line)
        case "otel":
            from ctk.render.otel import OtelLines

            return Records(OtelLines())
        case "parquet":
            from ctk.render.parquet import ParquetEncoder

            return ParquetEncoder(time)
        case _:
            return Templates(form, time)
