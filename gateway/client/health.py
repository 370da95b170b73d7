"""What is known of one endpoint: can it be reached, does it answer well, does it take more, how much should it get."""

#: So many answers of 5xx in a row, or requests without an answer, and the endpoint is left alone for a while.
BAD_IN_A_ROW = 5
#: It is tried again after so many seconds, then after twice as many, and so on.
FIRST_REST, LONGEST_REST = 0.25, 8.0
#: For so long after it began, or came back, an endpoint gets less than the others: it shall not be flooded.
SLOW_START_SECONDS = 10.0
#: States, the fittest first.
RANKS = ("fit", "draining", "failing", "refusing")
_SLOWNESS = 9
_SERVER_FAULT = 500
_NOT_THE_SERVERS = frozenset({501, 505})  # what was asked for is at fault, whoever is asked


class Health:
    """One endpoint's. `in_flight`: requests that it is answering, open `websockets` included.

    `failing`: there is no connection; `ill`: there is, and its answers are bad; `draining`: it shall get nothing new;
    `refusing`: its agent takes nothing new.
    """

    __slots__ = (
        "_bad",
        "_rest",
        "_since",
        "draining",
        "failing",
        "ill",
        "in_flight",
        "last_used",
        "refusing",
        "websockets",
    )

    def __init__(self, since: float = float("-inf")) -> None:
        self.failing = self.ill = self.draining = self.refusing = False
        self.in_flight = self.websockets = 0
        self.last_used = float("-inf")
        self._since = since
        self._bad = 0
        self._rest = 0.0

    @property
    def rank(self) -> int:
        """For choosing: 0 is fit. Who drains still answers, who fails may be back, who refuses will not."""
        if self.refusing:
            return 3
        if self.failing or self.ill:
            return 2
        return int(self.draining)

    @property
    def reachable(self) -> bool:
        return not (self.failing or self.refusing)

    @property
    def doubtful(self) -> bool:
        """Whether its last answer was a bad one, or it was tried of late."""
        return self._bad > 0 or self._rest > 0

    def load(self, now: float) -> float:
        """For comparing endpoints: requests in flight, more for one that is new or has just come back."""
        young = 1 - (now - self._since) / SLOW_START_SECONDS
        return (self.in_flight + 1) * (1 + _SLOWNESS * young) if young > 0 else self.in_flight + 1

    def answered(self, status: int) -> bool:
        """An answer began; whether it is one too many that is bad."""
        if status < _SERVER_FAULT or status in _NOT_THE_SERVERS:
            self._bad, self._rest = 0, 0.0
            return False
        return self.unanswered()

    def unanswered(self) -> bool:
        """A request got no answer, or a bad one; whether it is one too many."""
        self._bad += 1
        turned = not self.ill and self._bad >= BAD_IN_A_ROW
        self.ill = self.ill or turned
        return turned

    def back(self, now: float) -> None:
        """It was tried, and it is there."""
        self.failing = self.ill = False
        self._bad = 0
        self._since = now

    def rest(self) -> float:
        """Seconds until it should be tried again."""
        self._rest = min(max(self._rest * 2, FIRST_REST), LONGEST_REST)
        return self._rest
