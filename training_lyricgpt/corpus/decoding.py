"""Decodes the bytes of a source: encodings, byte order marks, halves of surrogate pairs.

Notes:
- If a text isn't in the given encoding, the error names the first wrong byte, its position and its line.
- Halves of surrogate pairs, which no encoding can hold, are replaced with U+FFFD and counted.
- UTF-8 is passed on unchanged, and checked when it is converted to strings.
"""

import codecs
import io
from typing import Any, BinaryIO

import pyarrow as pa

from .. import LyricGPTError
from .memory import BLOCK_BYTES
from .sources import Reading, Source


def find_encoding(source: Source, encoding: str) -> str:
    """Returns the given encoding, unless the source begins with the byte order mark of UTF-8, UTF-16 or UTF-32."""
    try:
        if not codecs.lookup(encoding)._is_text_encoding:
            raise LookupError
    except LookupError:
        raise LyricGPTError(f"unknown encoding {encoding!r}; try --encoding utf-8, latin-1 or cp1252") from None
    with source.open() as file:
        begin = file.read(4)
    if begin in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE):  # (before UTF-16: its mark begins that of UTF-32-LE)
        return "utf-32"
    if begin.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if begin.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    return codecs.lookup(encoding).name


def is_utf8(encoding: str) -> bool:
    return encoding in ("utf-8", "utf-8-sig", "ascii")


def repair(text: str) -> tuple[str, int]:
    """Joins pairs of surrogates and replaces lone halves with U+FFFD. Returns the text and the number of replacements."""
    joined = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return joined, joined.count("\ufffd") - text.count("\ufffd")


class Transcoded(io.RawIOBase):
    """Reads a source in any encoding as UTF-8 bytes.

    Raises:
        LyricGPTError: on reading the first byte that isn't in the encoding.
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
        """Returns the next block as UTF-8."""
        self.ended = not block
        pending = len(self.decoder.getstate()[0])
        try:
            text = self.decoder.decode(block, final=self.ended)
        except UnicodeDecodeError as error:
            where = self.position - pending + error.start
            self.line += error.object[: error.start].count(b"\n") - error.object[:pending].count(b"\n")
            raise LyricGPTError(
                f"{self.source.name} is not {self.encoding}: byte 0x{error.object[error.start]:02x} at position {where} (line "
                f"{self.line}). Set the file's encoding, for example --encoding cp1252 (Windows) or --encoding latin-1"
            ) from None
        except UnicodeError as error:
            raise LyricGPTError(
                f"{self.source.name} is not {self.encoding}: {error}. Set the file's encoding with --encoding"
            ) from None
        self.position += len(block)
        self.line += block.count(b"\n")
        return text.encode("utf-8", "surrogatepass")

    def close(self) -> None:
        self.file.close()
        super().close()


def open_utf8(source: Source, encoding: str) -> BinaryIO:
    """Opens a source as UTF-8 bytes without a byte order mark. If the encoding is UTF-8, the bytes aren't checked."""
    if is_utf8(encoding):
        file = source.open()
        if encoding == "utf-8-sig":
            file.read(len(codecs.BOM_UTF8))
        return file
    return io.BufferedReader(Transcoded(source, encoding), BLOCK_BYTES)


def checked_text(source: Source, encoding: str, values: pa.Array, reading: Reading) -> pa.Array:
    """Converts UTF-8 bytes to strings.

    Raises:
        LyricGPTError: if some bytes aren't UTF-8. The message gives their position in the file.
    """
    try:
        return as_texts(values, reading)
    except UnicodeDecodeError:
        locate_bad_byte(source, encoding)
        raise


def as_texts(values: pa.Array, reading: Reading) -> pa.Array:
    """Converts UTF-8 bytes to strings. Replaces halves of surrogate pairs and counts them.

    Raises:
        UnicodeDecodeError: if some bytes aren't UTF-8.
    """
    try:
        return values.cast(pa.large_string())
    except pa.ArrowInvalid:
        pairs = [repair((value or b"").decode("utf-8", "surrogatepass")) for value in values.to_pylist()]
        reading.replaced += sum(replaced for _, replaced in pairs)
        return pa.array([text for text, _ in pairs], pa.large_string())


def locate_bad_byte(source: Source, encoding: str) -> None:
    """Reads a source and raises LyricGPTError at the first byte that isn't in its encoding."""
    with Transcoded(source, encoding) as file:
        while file.read(BLOCK_BYTES):
            pass
