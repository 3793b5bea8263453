"""From the kernel's conntrack messages to flows. Knows neither Kubernetes nor SQLite."""
