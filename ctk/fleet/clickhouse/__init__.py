"""ClickHouse, a server or embedded (chDB): where many nodes' rows are shipped to and asked."""
