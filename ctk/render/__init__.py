"""Rows to tables, JSON, CSV and the JSON log, and files of lines with rollover."""
