"""The schema, shipped as `ctk.migrations`; `sqlite-utils migrate FILE migrations/` runs it too."""
