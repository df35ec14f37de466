"""Bytes of a source as text: encodings, byte order marks, halves of surrogate pairs.

Notable:
- Text that is not in the stated encoding is refused with the byte, its position and its line.
- Halves of surrogate pairs, which no encoding can hold, are replaced by U+FFFD, and counted.
- UTF-8 is passed on as it is, and checked where it becomes strings.
"""

import codecs
import io
from typing import Any, BinaryIO

import pyarrow as pa

from .. import LyricGPTError
from .memory import BLOCK_BYTES
from .sources import Source, Told


def find_encoding(source: Source, encoding: str) -> str:
    """The encoding of a source: the one stated, unless it begins with the mark of UTF-16 or UTF-8."""
    try:
        if not codecs.lookup(encoding)._is_text_encoding:
            raise LookupError
    except LookupError:
        raise LyricGPTError(f"unknown encoding {encoding!r}; try utf-8, latin-1 or cp1252") from None
    with source.open() as file:
        begin = file.read(4)
    if begin in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE):  # (the one begins as UTF-16's does)
        return "utf-32"
    if begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if begin.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    return codecs.lookup(encoding).name


def is_utf8(encoding: str) -> bool:
    return encoding in ("utf-8", "utf-8-sig", "ascii")


def repair(text: str) -> tuple[str, int]:
    """The text with pairs of surrogates joined and their lone halves replaced by U+FFFD, and how many were."""
    joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return joined, joined.count("\ufffd") - text.count("\ufffd")


class Transcoded(io.RawIOBase):
    """A source in any encoding as UTF-8 bytes.

    Raises:
        LyricGPTError: while it is read, at the first byte that is not in the encoding.
    """

    def __init__(self, source: Source, encoding: str):
        self.source, self.encoding = source, encoding
        self.file = source.open()
        self.decoder = codecs.getincrementaldecoder(encoding)()
        self.position, self.line, self.rest, self.ended = 0, 1, b"", False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self.rest and not self.ended:
            self.rest = self.decode(self.file.read(BLOCK_BYTES))
        part = self.rest[: len(buffer)]
        buffer[: len(part)] = part
        self.rest = self.rest[len(part) :]
        return len(part)

    def decode(self, block: bytes) -> bytes:
        """The next block as UTF-8."""
        self.ended = not block
        pending = len(self.decoder.getstate()[0])
        try:
            text = self.decoder.decode(block, final=self.ended)
        except UnicodeDecodeError as error:
            where = self.position - pending + error.start
            self.line += error.object[: error.start].count(b"\n") - error.object[:pending].count(b"\n")
            raise LyricGPTError(
                f"{self.source.name} is not {self.encoding}: byte 0x{error.object[error.start]:02x} at position {where} (line "
                f"{self.line}). Set encoding to what the file is, for example --encoding latin-1 or --encoding cp1252"
            ) from None
        except UnicodeError as error:
            raise LyricGPTError(f"{self.source.name} is not {self.encoding}: {error}") from None
        self.position += len(block)
        self.line += block.count(b"\n")
        return text.encode("utf-8", "surrogatepass")

    def close(self) -> None:
        self.file.close()
        super().close()


def open_utf8(source: Source, encoding: str) -> BinaryIO:
    """A source as UTF-8 bytes without a mark; bytes that claim to be UTF-8 are not checked."""
    if is_utf8(encoding):
        file = source.open()
        if encoding == "utf-8-sig":
            file.read(len(codecs.BOM_UTF8))
        return file
    return io.BufferedReader(Transcoded(source, encoding), BLOCK_BYTES)


def checked_text(source: Source, encoding: str, values: pa.Array, told: Told) -> pa.Array:
    """Bytes that claim to be UTF-8 as strings.

    Raises:
        LyricGPTError: some are not, with the position in the file.
    """
    try:
        return as_texts(values, told)
    except UnicodeDecodeError:
        locate_bad_byte(source, encoding)
        raise


def as_texts(values: pa.Array, told: Told) -> pa.Array:
    """Bytes as strings, halves of surrogate pairs replaced and counted.

    Raises:
        UnicodeDecodeError: some are no UTF-8.
    """
    try:
        return values.cast(pa.large_string())
    except pa.ArrowInvalid:
        pairs = [repair((value or b"").decode("utf-8", "surrogatepass")) for value in values.to_pylist()]
        told.replaced += sum(replaced for _, replaced in pairs)
        return pa.array([text for text, _ in pairs], pa.large_string())


def locate_bad_byte(source: Source, encoding: str) -> None:
    """Reads a source through and raises LyricGPTError at the first byte that is not in its encoding."""
    with Transcoded(source, encoding) as file:
        while file.read(BLOCK_BYTES):
            pass
