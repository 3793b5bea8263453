"""The running recorder: the loop, attribution, gaps, and what it asks of the host."""
