"""Who owns an address, and when. Knows neither netlink nor SQLite."""
