"""Which resources are not heard of now, since when, and the gaps that this made."""

from collections.abc import Iterable, Iterator

from ctk.kube.objects import Lost, Recovered, Resource
from ctk.model import Gap


class Staleness:
    """What is lost now, and the gaps that were."""

    def __init__(self) -> None:
        self.lost: dict[Resource, Lost] = {}
        self._spans: list[Recovered] = []
        self._gaps: list[Gap] = []

    def lose(self, lost: Lost) -> None:
        """Nothing is heard of a resource any more."""
        self.lost[lost.resource] = lost

    def recover(self, recovered: Recovered) -> None:
        """
        A resource is known again.

        Those that were lost together make one gap, when all of them are back.
        """
        self.lost.pop(recovered.resource, None)
        self._spans.append(recovered)
        if all(lost.denied for lost in self.lost.values()):
            self._tell()

    def finish(self, at_ns: int) -> None:
        """Recording ends: what is lost now stays so."""
        self._spans += [
            Recovered(lost.resource, lost.at_ns, at_ns, lost.why) for lost in self.lost.values()
        ]
        self.lost.clear()
        self._tell()

    def gaps(self) -> list[Gap]:
        """Those that ended since the last call."""
        gaps, self._gaps = self._gaps, []
        return gaps

    def _tell(self) -> None:
        self._gaps.extend(_merged(self._spans))
        self._spans = []


def _merged(spans: Iterable[Recovered]) -> Iterator[Gap]:
    gap: Gap | None = None
    names: dict[Resource, None] = {}
    for resource, from_ns, to_ns, why in sorted(spans, key=lambda span: span.from_ns):
        if gap is None or from_ns > gap.ended_ns:
            if gap is not None:
                yield gap
            gap, names = Gap("metadata stale", from_ns, to_ns), {}
            first_why = why
        names[resource] = None
        gap = gap._replace(
            ended_ns=max(gap.ended_ns, to_ns), detail=f"{', '.join(names)}: {first_why}"
        )
    if gap is not None:
        yield gap
