"""Rows to tables for people, and to JSON, JSON lines, CSV and TSV for programs."""

from dataclasses import dataclass
from typing import Literal

Format = Literal["table", "json", "jsonl", "csv", "tsv"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What form an answer takes, and whether a person's terminal shows it."""

    format: Format
    terminal: bool = False
