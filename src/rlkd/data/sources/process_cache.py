"""What was opened last, kept for the process that opened it."""

import os
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class ProcessCache(Generic[_Key, _Value]):
    """The values used last; a process that was forked off, or sent a copy, begins with none.

    Args:
        size: how many are kept.
        close: what is done to one that makes room.
    """

    def __init__(self, size: int, close: Callable[[_Value], None] | None = None) -> None:
        self.size, self.close = size, close
        self._held: OrderedDict[_Key, _Value] = OrderedDict()
        self._owner = os.getpid()

    def get(self, key: _Key, make: Callable[[], _Value]) -> _Value:
        """Return the value of a key, made where it is not held."""
        if self._owner != os.getpid():
            # What the parent opened is the parent's to close.
            self._held, self._owner = OrderedDict(), os.getpid()
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        value = self._held[key] = make()
        if len(self._held) > self.size:
            _, oldest = self._held.popitem(last=False)
            if self.close is not None:
                self.close(oldest)
        return value

    def __reduce__(self) -> tuple[object, ...]:
        return ProcessCache, (self.size, self.close)
