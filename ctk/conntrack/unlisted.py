"""What lived when a dump began, and it has not listed yet: there may be millions."""

from collections.abc import Iterable, Sequence

# At each part of a dump: some 20 ms. All of 2,600,000 at once took 1.2 s.
_ENTERED_AT_ONCE = 50_000


class Unlisted:
    """
    Keys of live connections, which a dump takes out.

    They are entered some at a time, while the first parts of the dump are read. Each stands under
    itself: 48 bytes less a connection where its counters stand under the very same object.
    """

    def __init__(self, keys: Iterable[int] = ()) -> None:
        self._waiting = list(keys)
        self._entered: dict[int, int] = {}
        self._early: set[int] = set()  # listed while some waited to be entered

    def take(self, key: int) -> int:
        """The dump lists this key: give it as it stands here, if it does."""
        found = self._entered.pop(key, None)
        if found is not None:
            return found
        if self._waiting:
            self._early.add(key)
        return key

    def take_all(self, keys: Sequence[int]) -> Sequence[int]:
        """The dump lists these."""
        if self._waiting:
            return list(map(self.take, keys))
        return list(map(self._entered.pop, keys, keys))

    def enter(self, most: int = _ENTERED_AT_ONCE) -> None:
        """Enter some of those that wait."""
        if not self._waiting:
            return
        some = self._waiting[-most:]
        del self._waiting[-most:]
        self._entered.update(zip(some, some, strict=True))
        if not self._waiting:
            for key in self._early:
                self._entered.pop(key, None)
            self._early = set()

    def left(self) -> dict[int, int]:
        """Give what the dump did not list."""
        self.enter(len(self._waiting))
        return self._entered
