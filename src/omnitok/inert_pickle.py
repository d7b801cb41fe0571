"""Pickles of strangers as plain data. A pickle is a program; here it can neither run, import nor hash what it likes.

`torch.load(weights_only=True)` is no help with released checkpoints: it refuses every class that is not on its list, so
they open only after each class was imported and put there, and from then on the class's own code does run. It also
loads the states of the optimizers, two thirds of the file, only to throw them away.
"""

import io
import pickle
import pickletools
from collections.abc import Callable
from typing import Any, ClassVar

MAX_INSTRUCTIONS = 2_000_000
MAX_NAME = 1_000
_LONGEST_KEY = 16

# Buffers that are allocated before they are read, or lie outside the pickle, the registry of extensions, and text with
# escapes: data as torch writes it needs none of them.
_LEFT_OUT = ("BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER", "EXT1", "EXT2", "EXT4", "PERSID", "STRING")
_CODES = {opcode.name: ord(opcode.code) for opcode in pickletools.opcodes}
_Base: Any = pickle._Unpickler


class MalformedPickle(Exception):
    """A pickle that asks for what no data needs; says what."""


class Mapping(dict[Any, Any]):
    """A dictionary, an OrderedDict, or what stands for one. Only keys whose hash takes no time are taken."""

    __slots__ = ()

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(checked_key(key), value)

    def __setstate__(self, state: Any) -> None:
        """An OrderedDict's attributes (`_metadata` of a state dict) are not needed."""


class List(list[Any]):
    """A list, or what stands for a set: nothing that the file made up is hashed."""

    __slots__ = ()

    def add(self, item: Any) -> None:
        """As of a set."""
        self.append(item)


class InertUnpickler(_Base):
    """Python's own unpickler in Python, whose memo and stack cost no more than the pickle has bytes.

    A subclass says in `find_class` what each name stands for: a class or function that does nothing but keep what it is
    given. Names that it does not know raise an exception of its choice.

    Args:
        content: the pickle.
        instructions: how many it may have; None takes `MAX_INSTRUCTIONS`.
    """

    dispatch: ClassVar[Any] = dict(_Base.dispatch)
    for _name in _LEFT_OUT:
        dispatch.pop(_CODES[_name], None)

    def __init__(self, content: bytes, instructions: int | None = None) -> None:
        self._content = io.BytesIO(content)
        super().__init__(self._content, encoding="utf-8", errors="surrogateescape")
        self._most = self._steps = MAX_INSTRUCTIONS if instructions is None else instructions

    def load(self) -> Any:
        """The data.

        Raises:
            MalformedPickle: more instructions than data needs, or a key that is expensive to hash.
            Exception: whatever a damaged pickle brings about.
        """
        self.dispatch = _Counted(type(self).dispatch, self)  # type: ignore[misc]  # of this instance
        return super().load()

    @property
    def taken(self) -> int:
        """Bytes of the content that were read: a pickle says itself where it ends, and something may follow it."""
        return self._content.tell()

    def find_class(self, module: str, name: str) -> Any:
        """What a name stands for."""
        raise MalformedPickle(f"names {module[:MAX_NAME]}.{name[:MAX_NAME]}")

    def ordered_dict(self, pairs: Any = ()) -> Mapping:
        """What `collections.OrderedDict(pairs)` stands for; counted, as one list can be copied by every instruction."""
        if not isinstance(pairs, list | tuple):
            raise TypeError("an OrderedDict is made from pairs")
        self._count(len(pairs))
        made = Mapping()
        for key, value in pairs:
            made[key] = value
        return made

    def _count(self, steps: int = 1) -> None:
        self._steps -= steps
        if self._steps < 0:
            raise MalformedPickle(f"has more than {self._most} instructions")

    def _dict(self) -> None:
        items = self.pop_mark()
        self.append(self.ordered_dict(list(zip(items[::2], items[1::2], strict=True))))

    def _build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        setstate = getattr(type(target), "__setstate__", None)  # of its class: what stands for a class or a function,
        if setstate is not None:  # and plain values, have no state that a file could set
            setstate(target, state)

    def _stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if type(name) is not str or type(module) is not str or len(name) + len(module) > MAX_NAME:
            raise TypeError("classes and functions have names")
        self.append(self.find_class(module, name))

    dispatch[_CODES["EMPTY_DICT"]] = lambda self: self.append(Mapping())
    dispatch[_CODES["DICT"]] = _dict
    dispatch[_CODES["BUILD"]] = _build
    dispatch[_CODES["EMPTY_SET"]] = lambda self: self.append(List())
    dispatch[_CODES["FROZENSET"]] = lambda self: self.append(tuple(self.pop_mark()))
    dispatch[_CODES["STACK_GLOBAL"]] = _stack_global


class _Counted:
    """The table of instructions, which counts how many were carried out."""

    def __init__(self, table: dict[int, Callable[[Any], None]], owner: InertUnpickler) -> None:
        self._table, self._owner = table, owner

    def __getitem__(self, code: int) -> Callable[[Any], None]:
        self._owner._count()
        return self._table[code]


def checked_key(key: Any) -> Any:
    """Hashing a tuple hashes what it holds, so a few nested ones could take for ever, or overrun the C stack."""
    plain = (bool, int, float, str, bytes)
    if key is None or isinstance(key, plain) or _hashes_by_identity(key):
        return key
    if isinstance(key, tuple) and len(key) <= _LONGEST_KEY and all(isinstance(item, plain) for item in key):
        return key
    raise MalformedPickle(f"has a dict with a {type(key).__name__} as a key")


def _hashes_by_identity(key: object) -> bool:
    method: Any = type(key).__hash__
    return method is object.__hash__
