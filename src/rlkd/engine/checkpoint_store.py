"""A folder of checkpoints and their checksums, of which a kill at any instant leaves one sound.

A checkpoint is written whole under a passing name, then listed in SHA256SUMS, then moved to its
place; only then is the oldest one removed, and then its line. A kill before the listing leaves a
passing file, which is of no use; one after it leaves a listed file that is still to be moved, which
the next start does. So what is listed is sound unless a disk or a hand has damaged it.
"""

import hashlib
import io
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rlkd.atomic import remove_unfinished, rename, sync, window
from rlkd.errors import UserError, one_line
from rlkd.regular_files import file_sha256, read_regular
from rlkd.text_files import write_text

SUMS = "SHA256SUMS"
"""In the format of coreutils: `sha256sum -c SHA256SUMS` checks the folder."""
_MAX_SUMS = 2**20
_STEP = r"step-(0|[1-9][0-9]{0,17})\.ckpt"
_PLACE = re.compile(_STEP)
_UNFINISHED = re.compile(rf"\.{_STEP}\.tmp")
_LINE = re.compile(rf"([0-9a-f]{{64}}) [ *]{_STEP}")


class _HashedFile(io.BufferedWriter):
    """Hashes what is written to it: what was meant, whatever becomes of it on the disk."""

    def __init__(self, path: Path) -> None:
        super().__init__(io.FileIO(path, "wb"))
        self.sha256 = hashlib.sha256()

    def write(self, buffer: Any, /) -> int:
        """Write the bytes."""
        self.sha256.update(buffer)
        return super().write(buffer)


@dataclass(frozen=True, slots=True)
class CheckpointStore:
    """Checkpoints by the step that they were taken after."""

    folder: Path

    @property
    def newest(self) -> Path | None:
        """The newest checkpoint that is listed and there, unread; None where there is none."""
        steps = [step for step, _ in self._listed() if self.place(step).is_file()]
        return self.place(max(steps)) if steps else None

    def place(self, step: int) -> Path:
        """Return where the checkpoint of a step belongs."""
        return self.folder / f"step-{step}.ckpt"

    def save(self, checkpoint: dict[str, Any], step: int, *, keep: int) -> None:
        """Write and list a checkpoint, then remove those before the last `keep`.

        Raises:
            UserError: if it cannot be written; what was there still is.
        """
        place, sha256 = self.place(step), ""
        unfinished = _unfinished(place)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            before = {each: known for each, known in self._listed() if each < step}
            listed = [each for each in before.items() if self.place(each[0]).is_file()]
            try:
                with _HashedFile(unfinished) as file:
                    window("begun", place)
                    torch.save(checkpoint, file)
                    file.flush()
                    sync(file.fileno(), place)
                    sha256 = file.sha256.hexdigest()
                listed.append((step, sha256))
                self._list(listed)
                rename(unfinished, place)
            finally:
                if (step, sha256) not in self._listed():
                    unfinished.unlink(missing_ok=True)
            for each, _ in listed[:-keep]:
                self.place(each).unlink(missing_ok=True)
            if len(listed) > keep:
                self._list(listed[-keep:])
        except (OSError, RuntimeError, UserError) as error:
            # torch's zip writer turns a full disk into a RuntimeError of its own.
            raise UserError(
                f"cannot save the checkpoint {place} ({one_line(error)}): free some space and run "
                "the same command again, it goes on from the last good checkpoint"
            ) from error

    def sound(
        self,
        show: Callable[[str], None],
        content_fault: Callable[[Path], str | None] = lambda _: None,
    ) -> Path | None:
        """Return the newest checkpoint that is as it was written; None where a run begins.

        First finishes what a kill left unfinished. Each checkpoint that is newer and not sound is
        reported and set aside as NAME.damaged.

        Args:
            show: shows a line.
            content_fault: says what is wrong with what a checkpoint holds; None where nothing is.

        Raises:
            UserError: if there are checkpoints and none is sound, which are then left as they are;
                or if the folder cannot be written to.
        """
        try:
            self._finish()
            listed, faults, found = self._listed(), dict[Path, str](), None
            for step in sorted({*dict(listed), *self._there()}, reverse=True):
                place = self.place(step)
                fault = self._fault(step, listed) or content_fault(place)
                if fault is None:
                    found = place
                    break
                faults[place] = fault
            if found is None:
                self._refuse(faults)
                return None
            for place, fault in faults.items():
                aside = place.with_name(f"{place.name}.damaged")
                if place.exists():
                    os.replace(place, aside)
                    fault = f"{fault}, set aside as {aside.name}"
                show(f"{place} {fault}: going on from {found.name}")
            if faults:
                self._list([each for each in listed if self.place(each[0]) not in faults])
        except OSError as error:
            raise UserError(
                f"cannot put {self.folder} in order ({one_line(error)}): make it a folder that "
                "you may write to"
            ) from error
        return found

    def _finish(self) -> None:
        """Move what was written and listed to its place; remove what was only begun."""
        for step, sha256 in self._listed():
            unfinished = _unfinished(self.place(step))
            if unfinished.is_file() and file_sha256(unfinished) == sha256:
                rename(unfinished, self.place(step))
        for each in self.folder.glob(".step-*.ckpt.tmp"):
            if _UNFINISHED.fullmatch(each.name):
                each.unlink()
        remove_unfinished(self.folder)

    def _fault(self, step: int, listed: list[tuple[int, str]]) -> str | None:
        place = self.place(step)
        if step not in dict(listed):
            return f"is not listed in {SUMS}"
        if not place.exists():
            return f"is missing, though {SUMS} lists it"
        try:
            if (step, file_sha256(place)) not in listed:
                return f"is damaged (its SHA-256 is not the one in {SUMS})"
        except UserError as error:
            return f"cannot be read ({one_line(error).removeprefix(f'cannot read {place}: ')})"
        return None

    def _refuse(self, faults: dict[Path, str]) -> None:
        """Raise if there are checkpoints, none of them sound."""
        if not faults:
            return
        if self._there() and not (self.folder / SUMS).is_file():
            raise UserError(
                f"{self.folder / SUMS} is missing, so that no checkpoint beside it can be checked: "
                f"if you trust them, write it with `sha256sum step-*.ckpt > {SUMS}` in that folder;"
                " if not, remove the folder to begin again"
            )
        damaged = "; ".join(f"{place.name} {fault}" for place, fault in faults.items())
        raise UserError(
            f"no checkpoint in {self.folder} is sound ({damaged}): put back a copy of one with its "
            f"{SUMS}, or remove the folder to begin again"
        )

    def _there(self) -> set[int]:
        named = (_PLACE.fullmatch(each.name) for each in self.folder.glob("step-*.ckpt"))
        return {int(each[1]) for each in named if each}

    def _listed(self) -> list[tuple[int, str]]:
        """Return steps and their SHA-256, oldest first.

        Whatever has befallen the list, what is left of it counts: what stands beside a damaged
        line, or says two things of a step, of which one is right.

        Raises:
            UserError: if there is something in its place that cannot be read.
        """
        try:
            text = read_regular(self.folder / SUMS, _MAX_SUMS).decode(errors="replace")
        except FileNotFoundError:
            return []
        except OSError as error:
            raise UserError(
                f"cannot read {self.folder / SUMS} ({error.strerror or error}): put back a copy of "
                "it, or remove it"
            ) from error
        return sorted((int(step), sha256) for sha256, step in _LINE.findall(text))

    def _list(self, sums: list[tuple[int, str]]) -> None:
        lines = [f"{sha256}  {self.place(step).name}\n" for step, sha256 in sums]
        write_text(self.folder / SUMS, "".join(lines))


def _unfinished(place: Path) -> Path:
    return place.with_name(f".{place.name}.tmp")
