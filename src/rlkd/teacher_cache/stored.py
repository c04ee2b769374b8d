"""A teacher whose logits are kept: each is computed once, and read from then on."""

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from rich.console import Console
from torch import Tensor

from rlkd.atomic import FULL
from rlkd.data import BatchLoader
from rlkd.data.loaders.loader import Wanted
from rlkd.errors import UserError, notice
from rlkd.teacher_cache.records import Rows
from rlkd.teacher_cache.store import DTYPES, Digests, Identity, Store
from rlkd.types import Batch

Live = Callable[[Float[Tensor, "batch ..."]], Float[Tensor, "batch classes"]]
"""The teacher itself: images, normalised, to logits."""

_SAMPLE = 32
"""Rows that are computed again when a store is opened."""
_TOLERANCES = {"32-true": 0.01}
_LOW_TOLERANCE = 0.1
"""How far a logit may be off one that was computed elsewhere, as a share of the greatest of its
batch: another processor rounds otherwise. Another network is off by more than all of it."""
_AT_ONCE = {"cpu": 32}
_MOST_AT_ONCE = 256
"""Images that are computed together, by the kind of device: always as many, for kernels sum in an
order that depends on the number of rows, and not on what is in the others."""
_SYNC_ROWS = 1 << 16
"""As many rows are computed between two waits for the disk, or looked at together."""
_SHARE_OF_DEVICE = 0.25
"""Of a GPU's free memory, that rows may take."""


class StoredTeacher:
    """Gives the logits that a store keeps, and has the teacher compute and keep those it lacks.

    What is given is always what was read back, in the very step that computed it too: a run that
    fills a store, one that finds it filled and one that is resumed see the same bits.

    Args:
        store: is of this teacher and of these images.
        place: of each training row, its image's place in the store.
        live: the teacher.
        loader: makes the views.
    """

    def __init__(
        self, store: Store, place: Int64[Tensor, " n"], live: Live, loader: BatchLoader
    ) -> None:
        self.store, self.live, self.loader = store, live, loader
        self._place = place
        self._dtype = torch.from_numpy(np.zeros(0, store.records.dtype)).dtype
        self._held: tuple[Tensor, Tensor] | None = None

    def __call__(self, batch: Batch) -> Float32[Tensor, "batch classes"]:
        """Return the teacher's logits on a batch.

        Images that are no view, as mixed ones, are the teacher's own business: their logits are
        computed and not kept.

        Raises:
            UserError: if a logit is too large for the store's numbers.
        """
        if self._held is not None and batch.view is not None and batch.target.dim() == 1:
            place, held = self._held
            return held[place[batch.index] * self.store.views + batch.view].float()
        view = _of(batch)
        rows = self._rows(batch.index.cpu(), view)
        logits, there = self._read(rows)
        numbered = view >= 0
        if not numbered.all():
            logits[~numbered] = self._computed(batch.image[(~numbered).to(batch.image.device)])
        absent = (~there & numbered).nonzero()[:, 0]
        parts = absent.split(_at_once(batch.image.device)) if len(absent) else ()
        # Runs side by side may see one batch at one time: each computes what no other does by now,
        # and waits at last for what the others do.
        for wait, part in product((False, True), parts):
            if there[part].all():
                continue
            with self.store.records.claimed(int(rows[part[0]]), wait=wait) as claimed:
                if claimed:
                    logits[part] = self._filled(batch, part, rows)
                    there[part] = True
        return logits.to(batch.image.device)

    def hold(self, device: torch.device) -> bool:
        """Hold every row on a device, so that a step reads them without waiting for it.

        Returns:
            Whether all are there and have room; else they are read from the disk, as before.
        """
        records = self.store.records
        size = records.rows * records.columns * records.dtype.itemsize
        if records.count() < records.rows or (
            device.type == "cuda" and size > _SHARE_OF_DEVICE * torch.cuda.mem_get_info(device)[0]
        ):
            return False
        held = torch.empty((records.rows, records.columns), dtype=self._dtype, device=device)
        for start in range(0, records.rows, _SYNC_ROWS):
            rows, there = records.read(np.arange(start, min(start + _SYNC_ROWS, records.rows)))
            if not there.all():
                return False
            held[start : start + len(rows)] = torch.from_numpy(rows)
        self._held = self._place.to(device), held
        return True

    def absent(self, batch_size: int) -> Wanted:
        """Return all that the store lacks of these images, in batches."""
        records = self.store.records
        absent = np.ones(records.rows, dtype=bool)
        absent[records.marked()] = False
        for rows in records.damaged():
            absent[rows] = True
        lacking = torch.from_numpy(absent).view(-1, self.store.views)[self._place]
        row, view = lacking.nonzero(as_tuple=True)
        batches = zip(row.split(batch_size), view.split(batch_size), strict=True)
        return list(batches) if len(row) else []

    def fill(self, wanted: Wanted, advance: Callable[[int], None]) -> None:
        """Compute and keep views.

        Args:
            wanted: see `absent`.
            advance: hears how many more are there.

        Raises:
            UserError: if a logit is too large for the store's numbers, or the disk is full.
        """
        records, unsynced = self.store.records, 0
        for batch in self.loader.batches_of(wanted):
            rows = self._rows(batch.index.cpu(), _of(batch))
            try:
                records.write(rows, self._rounded(self._computed(batch.image)).numpy())
            except OSError as error:
                raise UserError(f"{self.store.folder}: {_full(error)}") from error
            advance(len(rows))
            unsynced += len(rows)
            if unsynced >= _SYNC_ROWS:
                records.sync()
                unsynced = 0
        records.sync()

    def verify(self, precision: str, *, count: int = _SAMPLE) -> int:
        """Compute some of the logits that are there again, and return how many.

        Args:
            precision: that both were computed in.
            count: how many, spread over all.

        Raises:
            UserError: if they are not this teacher's.
        """
        sample = self._sample(count)
        if not sample:
            return 0
        batches = list(self.loader.batches_of(sample))
        # Of what was made: an image that cannot be decoded any more has another in its place.
        rows = [self._rows(each.index.cpu(), _of(each)) for each in batches]
        held, there = self._read(np.concatenate(rows))
        live = torch.cat([self._computed(each.image) for each in batches])
        allowed = _TOLERANCES.get(precision, _LOW_TOLERANCE)
        allowed *= float(live.nan_to_num(0).abs().max().clamp(min=1))
        held, live = held[there], live[there]
        worst = (held - live).nan_to_num(0).abs().max() if there.any() else torch.zeros(())
        if worst > allowed or not torch.equal(held.isfinite(), live.isfinite()):
            raise UserError(
                f"teacher.cache={self.store.folder} holds other logits than the teacher computes "
                f"now (off by {float(worst):.3g}, at most {allowed:.3g} is rounding): its "
                "network's code or the data's has changed; remove the store with `rlkd cache "
                f"remove {self.store.folder}`"
            )
        return int(there.sum())

    def _rows(self, index: Tensor, view: Tensor) -> Rows:
        return (self._place[index] * self.store.views + view.clamp(min=0)).numpy()

    def _read(self, rows: Rows) -> tuple[Float32[Tensor, "batch classes"], Tensor]:
        held, there = self.store.records.read(rows)
        return torch.from_numpy(held).float(), torch.from_numpy(there)

    def _filled(
        self, batch: Batch, part: Int64[Tensor, " part"], rows: Rows
    ) -> Float32[Tensor, "part classes"]:
        """Return the logits of a part of a batch, having computed those that are still absent."""
        logits, there = self._read(rows[part.numpy()])
        if not there.all():
            absent = part[~there]
            computed = self._computed(batch.image[absent.to(batch.image.device)])
            logits[~there] = self._kept(rows[absent.numpy()], computed)
        return logits

    def _computed(self, image: Tensor) -> Float32[Tensor, "batch classes"]:
        """Have the teacher compute logits, the same bits for an image in whatever company."""
        size, count = _at_once(image.device), len(image)
        row = torch.arange(-(-count // size) * size, device=image.device) % count
        with torch.no_grad():
            logits = [self.live(image[each]).float().cpu() for each in row.split(size)]
        return torch.cat(logits)[:count]

    def _rounded(self, logits: Float32[Tensor, "batch classes"]) -> Tensor:
        rounded = logits.to(self._dtype)
        if not torch.equal(rounded.isfinite(), logits.isfinite()):
            raise UserError(
                f"the teacher's logits go up to {float(logits.nan_to_num().abs().max()):.3g}, too "
                "large for float16: give teacher.cache_dtype=float32 and another teacher.cache"
            )
        return rounded

    def _kept(
        self, rows: Rows, logits: Float32[Tensor, "batch classes"]
    ) -> Float32[Tensor, "batch classes"]:
        """Keep rows, and return what then is there: another process's, if that came first."""
        records, rounded = self.store.records, self._rounded(logits)
        if records.writable:
            try:
                records.write(rows, rounded.numpy())
            except OSError as error:
                records.writable = False
                notice(f"{self.store.folder} is kept as it is from now on: {_full(error)}")
        held, there = self._read(rows)
        held[~there] = rounded[~there].float()
        return held

    def _sample(self, count: int) -> list[tuple[Tensor, Tensor]]:
        """Return some rows and views that are there, those of these images alone."""
        marked = torch.from_numpy(self.store.records.marked())
        where = torch.full((len(self.store.digests),), -1)
        where[self._place] = torch.arange(len(self._place))
        marked = marked[where[marked // self.store.views] >= 0]
        if not len(marked):
            return []
        step = torch.arange(min(count, len(marked)))
        chosen = marked[step * (len(marked) - 1) // max(len(step) - 1, 1)]
        return [(where[chosen // self.store.views], chosen % self.store.views)]


def stored_teacher(
    folder: Path,
    identity: Identity,
    digests: Sequence[bytes],
    own: Sequence[bytes],
    live: Live,
    loader: BatchLoader,
    console: Console,
) -> StoredTeacher:
    """Open a store, or make one, for a run.

    Args:
        folder: of the store.
        identity: what its logits are to be of, but for the images.
        digests: of all images that the store is to be for, where it is made.
        own: of the run's training rows, which are among them.
        live: the teacher.
        loader: makes the views of the run's training rows.
        console: where to say who is waited for.

    Raises:
        UserError: see `Store.opened`; or if the store lacks images of the run.
    """
    store = Store.opened(folder, identity, _sorted(digests), console)
    wanted = _as_numbers(own)
    place = np.searchsorted(store.digests, wanted).clip(max=len(store.digests) - 1)
    lacking = int((store.digests[place] != wanted).sum())
    if lacking:
        raise UserError(
            f"teacher.cache={folder} is of other images: it lacks {lacking} of {len(own)} here; "
            f"give another folder, or remove it with `rlkd cache remove {folder}`"
        )
    return StoredTeacher(store, torch.from_numpy(place), live, loader)


def _at_once(device: torch.device) -> int:
    return _AT_ONCE.get(device.type, _MOST_AT_ONCE)


def _of(batch: Batch) -> Tensor:
    """Return the views of a batch."""
    assert batch.view is not None
    return batch.view.cpu()


def check_dtype(name: object) -> None:
    """Refuse what no store keeps.

    Raises:
        UserError: if it is none of `DTYPES`.
    """
    if name not in DTYPES:
        raise UserError(f"teacher.cache_dtype={name}: choose one of {', '.join(DTYPES)}")


def _sorted(digests: Sequence[bytes]) -> Digests:
    return np.unique(_as_numbers(digests))


def _as_numbers(digests: Sequence[bytes]) -> Digests:
    return np.frombuffer(b"".join(digests), "<u8")


def _full(error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{reason}; free some space" if error.errno in FULL else reason
