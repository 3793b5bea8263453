"""Questions to a ctk file, and their answers."""
