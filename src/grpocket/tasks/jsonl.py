"""JSON lines, read exactly, with the place of every fault.

Lines end at "\\n" alone (U+2028 inside a string splits nothing), numbers keep the text they were
written with until somebody asks for a value, and what JSON leaves open (duplicate keys, NaN, lone
surrogates) is refused. Guessing an encoding or mending a broken line is left out: a fault names
its file, line and remedy, and the user decides.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..records import UserError

Row = dict[str, Any]
MAX_DEPTH = 50


@dataclass(frozen=True, slots=True)
class NumberText:
    """A JSON number as it was written: 0.10 stays "0.10", and thirty digits stay thirty digits."""

    text: str

    def __repr__(self) -> str:
        return self.text


class RowError(ValueError):
    """What is wrong with a row; the reader adds the file and the line."""


def rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield (line number, object) for each line that is not blank."""
    for line, data in _lines(path):
        try:
            text = data.decode("utf-8-sig" if line == 1 else "utf-8")
            if text.strip():
                yield line, parse(text)
        except UnicodeDecodeError as e:
            reason = f"byte 0x{data[e.start]:02x} is not UTF-8; save the file as UTF-8 (iconv -f LATIN1 -t UTF-8)"
            raise UserError(f"{path}:{line}:{e.start + 1}: {reason}") from None
        except json.JSONDecodeError as e:
            reason = f"malformed JSON ({e.msg}); each line must be one complete JSON object"
            raise UserError(f"{path}:{line}:{e.colno}: {reason}") from None
        except RowError as e:
            raise UserError(f"{path}:{line}: {e}") from None
        except RecursionError:
            raise UserError(f"{path}:{line}: nested deeper than {MAX_DEPTH}; flatten the row") from None


def plain(value: Any) -> Any:
    """`value` with its numbers as int and float, ready to leave this room."""
    if isinstance(value, NumberText):
        return _number(value.text)
    if isinstance(value, list):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


def shown(value: object, width: int = 40) -> str:
    """A value as an error message quotes it: escaped, on one line, not too long."""
    text = repr(value)
    return text if len(text) <= width else text[: width - 3] + "..."


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    try:
        with path.open("rb") as file:
            yield from enumerate(file, start=1)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; `grpocket data arithmetic --num 600 > FILE` makes one") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder; name a JSONL file inside it") from None
    except OSError as e:
        raise UserError(f"{path}: cannot be read ({e.strerror}); check the path and its permissions") from None


def parse(text: str) -> Row:
    """The object that a line holds, its numbers as `NumberText`; raises `RowError` or `JSONDecodeError`."""
    row = json.loads(
        text, parse_int=NumberText, parse_float=NumberText, parse_constant=_refuse, object_pairs_hook=_object
    )
    if not isinstance(row, dict):
        raise RowError(f'{shown(row)} is not an object; each line must be like {{"question": ..., "answer": ...}}')
    _check(row)
    return row


def _object(pairs: list[tuple[str, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise RowError(f"key {shown(twice)} occurs twice; keep one of them")
    return row


def _refuse(constant: str) -> None:
    raise RowError(f"{constant} is not JSON; write null or a number")


def _check(value: Any, depth: int = 0) -> None:
    """A lone surrogate can be written in JSON but in no file, so it would fail later, far from its line."""
    if depth > MAX_DEPTH:
        raise RowError(f"nested deeper than {MAX_DEPTH}; flatten the row")
    if isinstance(value, str) and not value.isascii() and any("\ud800" <= c <= "\udfff" for c in value):
        raise RowError(f"{shown(value)} holds half a surrogate pair; write the whole character")
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, list):
        for item in value:
            _check(item, depth + 1)


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        number = float(text)
    if not math.isfinite(number):  # int() refuses more than 4300 digits, which are past every float
        raise RowError(f"number {shown(NumberText(text))} is out of range; write it as a string")
    return number
