"""
Whose an address was, by time.

Pods pass addresses on, so each address has a row of spans; of one kind, none of them overlap.
"""

from dataclasses import replace

from ctk.kube.endings import Endings
from ctk.kube.identity import same
from ctk.kube.ownership import KILLED_LATE_NS, Claim, Ownership, since
from ctk.kube.spans import RANK, Spans
from ctk.kube.untold import Untold
from ctk.model import Endpoint, Kind
from ctk.model.history import HistoryChange
from ctk.timespan import FOREVER_NS, SECOND

# Clocks of nodes and API server differ a little: a pod's first traffic may seem older than the pod.
_SLACK_NS = 5 * SECOND
# A kubelet posts a pod's address this long after the pod got it, at most.
POSTED_LATE_NS = 5 * SECOND


class Owners:
    """
    The spans of every address; what ends is told in `history`.

    `always`: what is known comes from a file, so the first owner of an address always had it.
    An owner gets an address a little before its own start (`_SLACK_NS`), unless
    - the start is by this node's clock (a pod of `node_name`),
    - it is a service: that sends nothing, and what was dialled there before was another's,
    - the address had another owner: whatever is that old is the other's, or nobody's,
    - its kind was not watched then: there may have been another that nobody told of.
    """

    def __init__(self, history: list[HistoryChange], node_name: str, *, always: bool) -> None:
        self._node_name = node_name
        self._always = always
        self._spans = Spans()
        self.packed = self._spans.packed
        self.untold = Untold()
        self.endings = Endings(history, self._spans, self.untold)
        self.lost_ns = FOREVER_NS  # since when nothing is heard of pods
        self.forgotten_ns = -FOREVER_NS  # what ended before then is not known any more
        self.recalled_since_ns = self.recalled_until_ns = -FOREVER_NS  # of what time the file knew
        self.missed_since_ns: int | None = None  # what is told now happened then or later
        self.watched_from_ns: dict[Kind, int] = dict.fromkeys(RANK, FOREVER_NS)  # without a break
        self.watched_before_ns = FOREVER_NS  # the same of pods, up to when the watch broke off

    def at(self, address: str, when_ns: int) -> Ownership | None:
        """Whose an address was at that time."""
        return self._spans.at(address, when_ns)

    def owned_between(self, address: str, since_ns: int, until_ns: int) -> bool:
        """Whether anybody who is known had an address at some moment of that span."""
        spans = self._spans.of(address)
        return any(each.from_ns < until_ns and since_ns < each.to_ns for each in spans)

    def says_more(self, asked: Endpoint, owned: Ownership | None, until_ns: int) -> bool:
        """
        Whether an answer for then may be another than that of the recording that was asked.

        What the file knew then it decided by; only an owner that it had not heard of is new.
        """
        if asked.valid_from_ns < self.recalled_since_ns:
            # Others that had the address then were left out: no span is where it was.
            return owned is not None and owned.is_news
        if asked.valid_from_ns >= self.recalled_until_ns:
            return True
        news = [each for each in self._spans.of(asked.address) if each.is_news]
        if owned is None or owned.is_news:
            return bool(news)
        return owned.to_ns <= until_ns and any(each.claim.gained_ns <= until_ns for each in news)

    def was_in_doubt(self, endpoint: Endpoint) -> bool:
        """Whether an owner that is known was named for a time that began none of its spans."""
        mine = [each.endpoint for each in self._spans.of(endpoint.address)]
        began = {each.valid_from_ns for each in mine if each.uid == endpoint.uid}
        return bool(began) and endpoint.valid_from_ns not in began

    def is_owned(self, address: str) -> bool:
        """Whether an address is somebody's now."""
        return any(each.to_ns == FOREVER_NS for each in self._spans.of(address))

    def give(self, endpoint: Endpoint, claim: Claim) -> None:
        """
        Give an address to an endpoint from its start on.

        Another pod or node that still has it loses it when the newcomer gained it. Where that is
        known by the second only, and nobody saw it pass on, that second is nobody's.
        Services may share an address.
        """
        rivals, from_ns = self._spans.of_kind(endpoint), endpoint.valid_from_ns
        for owned in rivals:
            if owned.endpoint.uid == endpoint.uid and owned in self.endings:
                # It lives: the file closed it when a recording ended that no server told anything.
                self.endings.forget(owned)
                owned.to_ns = owned.sure_until_ns = owned.gone_ns = FOREVER_NS
                owned.claim, owned.recalled, owned.inferred = claim, False, False
                if not same(owned.endpoint, endpoint):
                    self.rename(replace(endpoint, valid_from_ns=claim.told_ns))
                return
        if endpoint.kind != "service":
            for rival in rivals:
                # Nothing used it before its first container ran: what is older may be another's.
                used_ns = claim.running_ns or claim.gained_ns
                from_ns = max(from_ns, used_ns, self._displace(rival, claim))
        from_ns = max(from_ns, self._seen_from_ns(endpoint, claim))
        slack_from_ns = (
            from_ns if rivals else self._slack_from_ns(endpoint, max(from_ns, claim.gained_ns))
        )
        self._spans.insert(Ownership(since(endpoint, from_ns), slack_from_ns, claim))

    def give_past(
        self, endpoint: Endpoint, claim: Claim, ended_ns: int, sure_until_ns: int
    ) -> None:
        """Let an endpoint have had an address for what others leave of its time, if anything."""
        rivals, to_ns = self._spans.of_kind(endpoint), ended_ns
        from_ns = max(endpoint.valid_from_ns, claim.gained_ns, self._seen_from_ns(endpoint, claim))
        if rivals:
            from_ns = max(from_ns, claim.running_ns or 0)
        for rival in rivals:
            gained_ns = rival.claim.gained_ns
            second_ns = gained_ns + SECOND
            if gained_ns == claim.gained_ns and rival.to_ns <= second_ns < ended_ns:
                # The rival had it first, and only in the second in which both got it: nobody's.
                rival.from_ns = second_ns
                from_ns = max(from_ns, second_ns)
            elif rival.claim.order >= claim.order:
                if gained_ns < ended_ns:
                    # It passed on in that second: nobody's, unless the rival used it later only.
                    rival.from_ns = max(rival.from_ns, second_ns)
                    used_late = (rival.claim.running_ns or 0) >= second_ns
                    to_ns = min(to_ns, second_ns if used_late else gained_ns)
            elif rival.to_ns == FOREVER_NS and rival.claim.told_ns >= ended_ns:
                # It started first, and got the address when this one had ended.
                rival.from_ns = max(rival.from_ns, ended_ns)
            else:
                from_ns = max(from_ns, self._displace(rival, claim))
        # Where others leave nothing of it, it is still one who had the address before the next.
        from_ns = min(from_ns, to_ns)
        owned = Ownership(since(endpoint, from_ns), from_ns, claim, to_ns)
        self._spans.insert(owned)
        if sure_until_ns >= to_ns:
            self.endings.close(owned, to_ns)
        else:
            self.endings.wait(owned, to_ns, sure_until_ns)

    def take(
        self,
        address: str,
        uid: str,
        to_ns: int,
        *,
        sure_until_ns: int = FOREVER_NS,
        deleted: bool = False,
        inferred: bool = False,
    ) -> int:
        """
        An address is no longer that owner's, if it still was; gives up to when it surely was.

        Between `sure_until_ns` and `to_ns` it is, if no other turns out to have it: in a pod's
        grace, or in the second in which it ended. `deleted`: nothing tells that it had the address
        for so long; `inferred`: nobody saw it go, either.
        """
        owned = self._spans.open(address, uid)
        if owned is None:
            return FOREVER_NS
        owned.inferred, gone_ns = inferred, sure_until_ns
        if sure_until_ns >= to_ns:
            self.endings.close(owned, to_ns)
            return to_ns
        if deleted:
            sure_until_ns = min(sure_until_ns, owned.sure_until_ns)
        if inferred:
            sure_until_ns = owned.unheard_ns = min(sure_until_ns, self._sure_until_ns(owned))
            if self.missed_since_ns is None:
                # Whoever got the address before is in the list that lacks this one.
                sure_until_ns = max(sure_until_ns, gone_ns - POSTED_LATE_NS)
        owned.recalled, owned.gone_ns, owned.sure_until_ns = False, gone_ns, sure_until_ns
        owned.latest_ns, owned.going_ns = to_ns, min(owned.going_ns, gone_ns)
        to_ns = self.untold.first_ns(owned, owned.doubted_ns, to_ns)
        self.endings.wait(owned, to_ns, min(sure_until_ns, to_ns))
        return owned.sure_until_ns

    def rename(self, endpoint: Endpoint) -> None:
        """The owner of an address has other labels, say, from now on: another endpoint."""
        owned = self._spans.open(endpoint.address, endpoint.uid)
        if owned is not None:
            sure_until_ns = owned.sure_until_ns
            self.endings.close(owned, endpoint.valid_from_ns)
            renamed = Ownership(since(endpoint, owned.to_ns), owned.to_ns, owned.claim)
            renamed.is_news = owned.is_news
            renamed.sure_until_ns = sure_until_ns
            self._spans.insert(renamed)

    @property
    def pods_watched_ns(self) -> int | None:
        """Since when all pods are told; None where they are not."""
        from_ns = self.watched_from_ns["pod"]
        return None if from_ns == FOREVER_NS else from_ns

    def watch(self, kind: Kind, from_ns: int) -> None:
        """All owners of a kind are told from then on."""
        self.watched_from_ns[kind] = min(self.watched_from_ns[kind], from_ns)

    def unwatch(self, kind: Kind) -> None:
        """Owners of a kind are told no more."""
        if kind == "pod" and self.pods_watched_ns is not None:
            self.watched_before_ns = self.watched_from_ns["pod"]
        self.watched_from_ns[kind] = FOREVER_NS

    def doubt(self, address: str, uid: str, since_ns: int, told_ns: int) -> None:
        """From then on it is not sure that the address is still that owner's."""
        owned = self._spans.open(address, uid)
        if owned is not None:
            # Whose it is was sure in the second in which it got it.
            since_ns = max(since_ns, owned.claim.gained_ns + SECOND)
            owned.sure_until_ns = min(owned.sure_until_ns, since_ns)
            owned.going_ns = min(owned.going_ns, told_ns)

    def recalled(self, since_ns: int, until_ns: int) -> None:
        """All that is known is what the file knew: who owned addresses since, told until then."""
        self.recalled_since_ns, self.recalled_until_ns = since_ns, until_ns
        for owned in self._spans:
            owned.is_news = False
            if owned.to_ns == FOREVER_NS:
                owned.sure_until_ns = until_ns
            owned.recalled = owned.sure_until_ns < owned.to_ns

    def end_recall(self) -> None:
        """The API server told which pods there are: the grace of the others is as after a watch."""
        for owned in self.endings:
            owned.recalled = False

    def confirm(self, address: str, uid: str, claim: Claim) -> None:
        """The owner that the file knew still has the address; and told since when."""
        owned = self._spans.open(address, uid)
        if owned is None:
            return
        owned.recalled, owned.sure_until_ns = False, FOREVER_NS
        owned.claim = claim._replace(told_ns=min(claim.told_ns, owned.claim.told_ns))
        others = [each for each in self._spans.of_kind(owned.endpoint) if each is not owned]
        # The file knows when it was told of the address, and the server since when it was used.
        used_ns = max(claim.gained_ns + SECOND, claim.running_ns or 0)
        for rival in others:
            if owned.from_ns == rival.to_ns > used_ns > rival.from_ns:
                rival.to_ns = owned.from_ns = used_ns
        if self._always and not others:
            owned.from_ns = -FOREVER_NS
        elif all(each.to_ns <= claim.gained_ns for each in others):
            # The file may have thrown away how it stood at first, but not whose that second was.
            owned.from_ns = min(owned.from_ns, claim.gained_ns + SECOND)

    def expire(self, before_ns: int) -> None:
        """Forget spans that ended before then."""
        self.untold.expire(before_ns)
        self.forgotten_ns = max(self.forgotten_ns, before_ns)
        self._spans.expire(before_ns)

    def _seen_from_ns(self, endpoint: Endpoint, claim: Claim) -> int:
        """
        From when on nobody else can have had an address that a pod gained.

        Where pods were not watched, another that nobody told of may have had it in that second;
        and so may one that was told of, and never told its address.
        """
        if self._always or endpoint.kind != "pod":
            return -FOREVER_NS
        # A list that tells of it tells of all that there are, too.
        watched_ns = min(self.watched_from_ns["pod"], claim.told_ns)
        second_ns = claim.gained_ns + SECOND
        left_ns = self.untold.left_ns(endpoint.node, claim.gained_ns, claim.told_ns)
        return min(second_ns, max(watched_ns, left_ns))

    def _slack_from_ns(self, endpoint: Endpoint, from_ns: int) -> int:
        """From when on an address is an endpoint's that gained it then, from no other owner."""
        if self._always:
            return -FOREVER_NS
        is_own = endpoint.kind == "pod" and endpoint.node == self._node_name
        if is_own or endpoint.kind == "service":
            return from_ns
        slack_ns = max(from_ns - _SLACK_NS, min(from_ns, self.watched_from_ns[endpoint.kind]))
        if endpoint.kind == "pod":
            slack_ns = max(slack_ns, self.untold.left_ns(endpoint.node, slack_ns, from_ns))
        return min(slack_ns, from_ns)

    def _displace(self, rival: Ownership, claim: Claim) -> int:
        """End what a rival still has of an address; gives from when on it is the newcomer's."""
        passed_ns = from_ns = claim.gained_ns
        second_ns = passed_ns + SECOND
        if claim.came_ns is not None:
            passed_ns = from_ns = claim.came_ns
        elif not self._has_left(rival, passed_ns):
            from_ns = second_ns
            if claim.running_ns is not None and claim.running_ns >= second_ns:
                # It got the address in that second, and did not use it before the next.
                passed_ns = second_ns
        over_ns, sure_until_ns = rival.to_ns, rival.sure_until_ns
        if over_ns == FOREVER_NS:
            if rival.claim.gained_ns < claim.gained_ns:
                self._pass_on(rival, passed_ns)
                return from_ns
            # The newcomer started first, and got the address when the rival no longer had it.
            self.endings.close(rival, min(self._sure_until_ns(rival), claim.told_ns))
            return claim.told_ns
        if passed_ns < over_ns and sure_until_ns < over_ns:  # in its grace
            if sure_until_ns <= from_ns:
                self._pass_on(rival, max(sure_until_ns, passed_ns))
                return from_ns
            self.endings.close(rival, sure_until_ns)
            used_ns = max(sure_until_ns, second_ns, claim.running_ns or FOREVER_NS)
            return min(claim.told_ns, over_ns, used_ns)
        may_share = rival.latest_ns > passed_ns
        if rival in self.endings and self.watched_from_ns["pod"] <= rival.doubted_ns:
            # All pods are told, in order: whoever had the address in between is known by now.
            self._pass_on(rival, over_ns)
        return max(over_ns, from_ns) if may_share else over_ns

    def _pass_on(self, rival: Ownership, to_ns: int) -> None:
        """
        The next owner of a rival's address is told, so the address was the rival's up to then.

        But a third pod may have had it in between, that is gone or has not told its address yet.
        """
        doubted_ns = min(self._sure_until_ns(rival), rival.doubted_ns)
        first_ns = self.untold.first_ns(rival, doubted_ns, to_ns)
        if doubted_ns < to_ns and (first_ns < to_ns or self.untold.awaits(to_ns - 1)):
            sure_until_ns = min(self._sure_until_ns(rival), first_ns)
            self.endings.wait(rival, first_ns, sure_until_ns, passed_on=True)
        else:
            self.endings.close(rival, to_ns)
        rival.latest_ns = to_ns

    def _has_left(self, rival: Ownership, when_ns: int) -> bool:
        """Whether a newcomer of that second need not share it with a rival."""
        if self.is_sure(rival, when_ns + SECOND - 1):
            return True
        return when_ns >= rival.gone_ns + KILLED_LATE_NS

    def _sure_until_ns(self, owned: Ownership) -> int:
        lost_ns = self.lost_ns if owned.endpoint.kind == "pod" else FOREVER_NS
        return min(owned.sure_until_ns, lost_ns)

    def is_sure(self, owned: Ownership, when_ns: int) -> bool:
        """Whether nobody else can have had the address at that time."""
        return when_ns < owned.sure_until_ns and (
            when_ns < self.lost_ns or owned.endpoint.kind != "pod"
        )
