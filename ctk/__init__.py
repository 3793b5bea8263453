"""ctk: who talked to whom on this Kubernetes node, when, how much, and what failed."""

from importlib.metadata import version

__version__: str


def __getattr__(name: str) -> str:
    # Reading the version scans installed metadata; only `--version` and record ask for it.
    if name == "__version__":
        return version("ctk")
    raise AttributeError(name)
