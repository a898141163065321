"""The gateway's own record of the values it set: a second copy of the newest ones, for the day the ledger is set back.

The ledger is the truth. But a control plane's database that is restored from an older backup has forgotten every value
that was set since, and then nobody could log in any more. So before a target may have a value, the bytes that were
staged (sealed by the record's key, never clear text) are made durable here as well.

A file that cannot be written does not stop rotations. Their values are durable in the ledger before the target hears of
them, so what is lost is the second copy alone; and a rotation may be what takes a leaked secret out of use. It is told
in the log, in the gateway's details and in the audit log instead.

A line is ``crc32 JSON``. One that was torn by a crash, or damaged later, is left out and told in the log; the next line
begins on its own. All instances that run from one configuration share the file, under a lock.
"""

from __future__ import annotations

import base64
import errno
import fcntl
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import structlog

from pam_jobs.clock import Clock, SystemClock
from workers.journal_lines import ABANDONED, APPLYING, CURRENT, Kept, Values, decoded, encoded

__all__ = ["Journal"]

_log = structlog.get_logger(__name__)
_FILE: Final = "journal.jsonl"
_LEAST_LINES: Final = 4096  # lines before the file is made anew, however few of them still count
_SLACK: Final = 4  # lines for each one that counts, before the file is made anew
_LOCK_SECONDS: Final = 2.0


class Journal:
    """The newest values of each record; shared between threads, and between processes by the file."""

    def __init__(
        self, folder: Path | None = None, *, clock: Clock | None = None, least_lines: int = _LEAST_LINES
    ) -> None:
        """Read what is there.

        Args:
            folder: where the file is; None remembers as long as the process lives.
            clock: gives the lines their time.
            least_lines: the file is made anew only when it has more lines than this.
        """
        self._path = folder / _FILE if folder else None
        self._clock = clock or SystemClock()
        self._least_lines = least_lines
        self._lock = threading.RLock()
        self._syncing = threading.Lock()
        self._values = Values()
        self._descriptor: int | None = None
        self._can_write = False
        self._offset = 0  # read so far
        self._lines = 0
        self._written = self._synced = 0  # appends of this process, and how many of them are durable
        self._only_here: set[bytes] = set()  # values that could not be written and that this process still knows
        self._trouble: str | None = None
        if self._path is not None:
            self._begin()

    @property
    def trouble(self) -> str | None:
        """Why the file cannot be written now; None while all is well."""
        return self._trouble

    def epoch_of(self, record_uid: str) -> int:
        """Return the highest epoch that this gateway worked with on the record; 0 when it did not."""
        with self._lock:
            self._read_on()
            return self._values.epoch_of(record_uid)

    def of(self, record_uid: str) -> tuple[Kept, ...]:
        """Return the record's values, the newest first."""
        with self._lock:
            self._read_on()
            return self._values.of(record_uid)

    def applying(self, record_uid: str, job_uid: str, *, epoch: int, seq: int, ciphertext: bytes) -> None:
        """Keep a value that the target is about to get; durable on return, or told as trouble."""
        self._add(record_uid, job_uid, epoch, seq, APPLYING, ciphertext)
        self._make_durable()

    def current(self, record_uid: str, job_uid: str, *, epoch: int, seq: int, ciphertext: bytes) -> None:
        """Take note that a value was proven and is the ledger's current one; what came before is history.

        It is not waited for the disk: without this line the value still stands there as the newest.
        """
        with self._lock:
            newest = next((each for each in self._values.of(record_uid) if each.seq == seq), None)
            is_kept = newest is not None and newest.ciphertext == ciphertext and ciphertext not in self._only_here
        self._add(record_uid, job_uid, epoch, seq, CURRENT, None if is_kept else ciphertext)

    def abandoned(self, record_uid: str, job_uid: str, *, epoch: int, seq: int) -> None:
        """Forget a value that the target refused and the ledger gave up."""
        self._add(record_uid, job_uid, epoch, seq, ABANDONED, None)

    def close(self) -> None:
        """Close the file; the journal goes on in memory."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
            self._descriptor = self._path = None

    def _add(self, record_uid: str, job_uid: str, epoch: int, seq: int, state: str, ciphertext: bytes | None) -> None:
        line: dict[str, Any] = {
            "record": record_uid,
            "job": job_uid,
            "epoch": epoch,
            "seq": seq,
            "state": state,
            "at": self._clock.now().isoformat(),
        }
        if ciphertext is not None:
            line["value"] = base64.b64encode(ciphertext).decode()
        with self._lock:
            if self._path is None:
                self._values.apply(line)
                return
            try:
                with self._exclusive():
                    self._append(line)
            except OSError as error:
                self._values.apply(line)
                if ciphertext is not None:
                    self._only_here.add(ciphertext)
                self._has_trouble(error)
            else:
                self._only_here.discard(ciphertext or b"")
                self._is_well()

    def _append(self, line: Mapping[str, Any]) -> None:
        self._read_on()
        self._reopen(must_write=True)
        descriptor = self._writable()
        torn = self._offset < os.fstat(descriptor).st_size  # a crash, or a disk that was full, cut the last one off
        _write(descriptor, (b"\n" if torn else b"") + encoded(line))
        self._read_on()
        self._written += 1
        if self._lines > max(self._least_lines, _SLACK * len(self._values)):
            self._make_anew()

    def _make_durable(self) -> None:
        """Wait for the disk; threads that come meanwhile share the next wait."""
        with self._lock:
            wanted = self._written
            if self._path is None or self._trouble is not None:
                return
        with self._syncing:
            with self._lock:
                if self._synced >= wanted or self._descriptor is None:
                    return
                now, descriptor = self._written, os.dup(self._descriptor)
            try:
                os.fdatasync(descriptor)
            except OSError as error:
                self._has_trouble(error)
            else:
                with self._lock:
                    self._synced = max(self._synced, now)
            finally:
                os.close(descriptor)

    # the file

    def _begin(self) -> None:
        try:
            with self._exclusive():
                self._read_on()
                self._reopen(must_write=True)
                if self._descriptor is not None and self._offset < os.fstat(self._descriptor).st_size:
                    _log.warning("journal_line_torn", line=self._lines + 1)
        except OSError as error:
            self._has_trouble(error)

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Keep other processes from writing; the lock is another file, since this one is replaced now and then."""
        path = self._known_path()
        path.parent.mkdir(mode=0o700, exist_ok=True)
        descriptor = os.open(path.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o600)
        try:
            self._take(descriptor)
            yield
        finally:
            os.close(descriptor)

    @staticmethod
    def _take(descriptor: int) -> None:
        """Take the lock; a process that was stopped while it held it must not stop this one too."""
        end = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= end:
                    raise OSError(errno.EAGAIN, "another process holds the lock") from None
                time.sleep(0.005)
            else:
                return

    def _reopen(self, *, must_write: bool = False) -> None:
        """Open the file where it is not open, or was replaced."""
        path = self._known_path()
        if self._descriptor is not None:
            with suppress(FileNotFoundError):
                is_same = os.path.samestat(path.stat(), os.fstat(self._descriptor))
                if is_same and (self._can_write or not must_write):
                    return
            self._let_go()
        flags = os.O_CREAT if must_write else 0
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | flags, 0o600)
            self._can_write = True
        except FileNotFoundError:
            if must_write:
                raise
        except OSError:
            if must_write:
                raise
            self._descriptor = os.open(path, os.O_RDONLY)  # what stands there is of use even so
            self._can_write = False

    def _let_go(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None
        self._offset = self._lines = 0
        self._values.clear()

    def _read_on(self) -> None:
        """Take in the whole lines that were added since; a part of a line stays for the next time."""
        if self._path is None:
            return
        try:
            self._reopen()
            if self._descriptor is None:
                return
            content = _rest(self._descriptor, self._offset)
        except OSError as error:
            self._has_trouble(error)
            return
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        for text in whole.split(b"\n")[:-1]:
            self._lines += 1
            if (line := decoded(text)) is None:
                _log.warning("journal_line_damaged", line=self._lines)
            else:
                self._values.apply(line)

    def _make_anew(self) -> None:
        """Write what counts to a new file and put it in place of the old one, whole or not at all."""
        path = self._known_path()
        temporary = path.with_suffix(f".{os.getpid()}")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                _write(descriptor, b"".join(encoded(line) for line in self._values.lines()))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            temporary.replace(path)
            _sync_folder(path.parent)
        except OSError as error:  # the old file is whole, and goes on
            with suppress(OSError):
                temporary.unlink()
            _log.warning("journal_not_made_anew", reason=error.strerror)
            return
        self._read_on()
        self._synced = self._written

    def _known_path(self) -> Path:
        if self._path is None:
            raise OSError(errno.EBADF, "the journal was closed")
        return self._path

    def _writable(self) -> int:
        if self._descriptor is None:
            raise OSError(errno.EBADF, "the journal is not open")
        return self._descriptor

    def _has_trouble(self, error: OSError) -> None:
        reason = error.strerror or type(error).__name__
        if reason != self._trouble:
            _log.error("journal_not_written", reason=reason, remedy="give the gateway's state folder space and rights")
        self._trouble = reason

    def _is_well(self) -> None:
        if self._trouble is not None:
            _log.info("journal_written_again")
        self._trouble = None


def _write(descriptor: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(descriptor, left) :]


def _rest(descriptor: int, offset: int) -> bytes:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, size - offset, offset) if size > offset else b""


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
