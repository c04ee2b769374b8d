"""An LRU cache that starts empty in every worker process."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class ProcessCache(Generic[_Key, _Value]):
    """The values used last; a process that was forked off, or sent a copy, begins with none.

    Threads take turns.

    Args:
        size: how many are kept.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._begin()

    def _begin(self) -> None:
        self._held: OrderedDict[_Key, _Value] = OrderedDict()
        self._owner, self._turn = os.getpid(), threading.Lock()

    def get(self, key: _Key, make: Callable[[], _Value]) -> _Value:
        """Return the value of a key, made where it is not held."""
        if self._owner != os.getpid():
            self._begin()
        with self._turn:
            if key not in self._held:
                self._held[key] = make()
                if len(self._held) > self.size:
                    self._held.popitem(last=False)
            self._held.move_to_end(key)
            return self._held[key]

    def __reduce__(self) -> tuple[object, ...]:
        return ProcessCache, (self.size,)
