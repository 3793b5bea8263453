"""The SQLite file: one writer, read-only readers, all SQL outside migrations/."""
