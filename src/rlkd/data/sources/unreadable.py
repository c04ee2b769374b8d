"""Images that cannot be decoded: whether they stop a run, and how many there were."""

from collections.abc import Iterable, Sequence

from rlkd.errors import UserError

_TOLD = 3


class Unreadable:
    """What is done about images that cannot be decoded, and those that were met, each once.

    Args:
        policy: `stop` at the first; or `skip`, where training puts the next image that can be
            decoded in its place, and an evaluation leaves it out. None for a set without that
            choice, which stops.

    Raises:
        UserError: for any other policy.
    """

    def __init__(self, policy: str | None = None) -> None:
        if policy not in (None, "stop", "skip"):
            raise UserError(f"data.unreadable={policy}: choose stop or skip")
        self.skips = policy == "skip"
        self.remedy = ", or give data.unreadable=skip" if policy == "stop" else ""
        """Ends the message of an image that stops."""
        self._places: dict[str, None] = {}

    def add(self, places: Iterable[str]) -> None:
        """Count images by where they are; one that was counted before counts no more."""
        self._places.update(dict.fromkeys(places))

    @property
    def places(self) -> tuple[str, ...]:
        """Where the skipped images are that this process has met."""
        return tuple(self._places)

    @property
    def note(self) -> str:
        """How many were skipped and which came first, in one line; empty where none was."""
        if not self._places:
            return ""
        count, first = len(self._places), first_few(self.places)
        images = "1 image that cannot be decoded was" if count == 1 else ""
        images = images or f"{count} images that cannot be decoded were"
        return f"{images} skipped (data.unreadable=skip): {first}"


def first_few(places: Sequence[str]) -> str:
    """Return the first places, and how many more there are, if any."""
    more = f" and {len(places) - _TOLD} more" if len(places) > _TOLD else ""
    return f"{', '.join(places[:_TOLD])}{more}"
