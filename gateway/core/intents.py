"""How old an intent to submit is, told by a clock that nobody sets."""

from collections.abc import Callable, Collection
from datetime import datetime, timedelta

from gateway.model.session import Session


class Intents:
    """The recorded intents that this process knows of.

    What passed before it first saw one it takes from the times of day, as another process recorded it; what passes
    since, from `moment` (seconds that go on while the process is stopped or the machine sleeps).
    """

    def __init__(self, moment: Callable[[], float]) -> None:
        self._moment = moment
        self._seen: dict[str, tuple[datetime, float]] = {}

    def see(self, session: Session, now: datetime) -> Callable[[], timedelta]:
        """The age of the session's intent, whenever it is asked for."""
        intent = session.job.intent_at or now
        known = self._seen.get(session.id)
        if known is None or known[0] != intent:
            known = self._seen[session.id] = intent, self._moment() - max(0.0, (now - intent).total_seconds())
        began = known[1]
        return lambda: timedelta(seconds=self._moment() - began)

    def keep(self, session_ids: Collection[str]) -> None:
        """Forget those of all other sessions."""
        self._seen = {key: known for key, known in self._seen.items() if key in session_ids}
