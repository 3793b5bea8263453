"""Ages and RFC 3339 times in, nanoseconds since the epoch out. `now` is always an argument."""
