"""ctk: who talked to whom on this Kubernetes node, when, how much, and what failed."""

__version__: str


def __getattr__(name: str) -> str:
    if name == "__version__":
        # 10 ms to import, and only `--version` and record ask for it.
        from importlib.metadata import version

        return version("ctk")
    raise AttributeError(name)
