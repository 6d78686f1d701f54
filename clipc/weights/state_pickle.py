"""State dicts out of pickles, without the module `pickle` and without running anything.

A pickle is a program for a small stack machine. This machine knows the instructions that PyTorch uses for a
state dict and no others, and the few global names below, each of which stands for plain data. A name out of
the file is compared with that list, and never imported, looked up or called. Whatever else a file asks for is
refused, and the message says what it was.

TorchScript describes each module as an object of a class ``__torch__.*`` with a dict of attributes. Here that
is a `ScriptObject`: the name of a class, and the dict.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from clipc.errors import WeightsError
from clipc.weights.tensor_file import DTYPE_BITS, MAX_RANK, shortened

# Limits far above real files: a state dict takes some 40 instructions and 130 bytes a tensor.
MAX_PICKLE_BYTES = 16_000_000
MAX_INSTRUCTIONS = 500_000
MAX_STACK = 200_000
MAX_NESTING = 200
MAX_TEXT_BYTES = 1_000_000
MAX_NAME_BYTES = 512
MAX_INTEGER_BYTES = 16

NOTHING_IS_EXECUTED = "clipc executes nothing from weight files"


class Global(NamedTuple):
    """A name that the pickle mentions. It is text, and leads to nothing."""

    module: str
    name: str

    def __str__(self):
        return shortened(f"{self.module}.{self.name}")


class Storage(NamedTuple):
    """A block of numbers beside the pickle, called `key` there."""

    key: str
    dtype: str
    numel: int


class StoredTensor(NamedTuple):
    """A view of a storage; `offset` and `strides` count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class ScriptObject:
    """A module of a TorchScript archive: its attributes, which are None until they were given."""

    __slots__ = ("attributes", "class_name")

    def __init__(self, class_name):
        self.class_name = class_name
        self.attributes = None


class OrderedDict(dict):
    """What the pickle calls collections.OrderedDict. A state dict has attributes too, which are dropped."""


STORAGE_DTYPES = {
    Global("torch", f"{name}Storage"): dtype
    for name, dtype in {
        "Float": "F32", "Half": "F16", "BFloat16": "BF16", "Double": "F64", "Long": "I64", "Int": "I32",
        "Short": "I16", "Char": "I8", "Byte": "U8", "Bool": "BOOL",
    }.items()
}  # fmt: skip


class PickleReader:
    """Reads one pickle.

    Parameters
    ----------
    stream : binary file
        With ``read`` and ``readline``; left behind the last instruction.
    what : str
        Of which file, for messages, such as "model.pt".
    part : str
        Which pickle in it.
    torchscript : bool
        Whether names that begin with ``__torch__.`` may appear.
    """

    def __init__(self, stream, what, part="data.pkl", *, torchscript=False):
        self._stream = stream
        self._what = what
        self._part = part
        self._torchscript = torchscript
        self._position = 0
        self._instruction = 0  # where the current one begins
        self._code = 0
        self._stack = []
        self._outer_stacks = []
        self._memo = {}
        self.storages = {}  # key to Storage, of all that the pickle mentions

    def read(self):
        """Run the pickle.

        Returns
        -------
        object
            None, numbers, text, lists, tuples, dicts, `StoredTensor`, `ScriptObject`.

        Raises
        ------
        WeightsError
            It is damaged, too large, or asks for something that no state dict needs.
        """
        # Instructions are counted and not timed, so that a file is refused on every machine or on none.
        for _ in range(MAX_INSTRUCTIONS):
            self._instruction = self._position
            self._code = self._take(1)[0]
            if self._code not in INSTRUCTIONS:
                self._refuse("the archive asks for an instruction that no state dict needs")
            if self._code == STOP:
                if len(self._stack) != 1 or self._outer_stacks:
                    self._damaged(f"it ends with {len(self._stack)} values on the stack, expected one")
                return self._stack[0]
            INSTRUCTIONS[self._code][1](self)
            if len(self._stack) > MAX_STACK:
                self._refuse(f"the archive puts more than {MAX_STACK} values on the stack")
            if self._position > MAX_PICKLE_BYTES:
                break
        self._refuse(f"it has more than {MAX_INSTRUCTIONS} instructions or {MAX_PICKLE_BYTES} bytes")

    # -- messages ----------------------------------------------------------------------------------------

    def _where(self):
        return f"opcode {_opcode_name(self._code)} at byte {self._instruction} of {self._part}"

    def _refuse(self, reason):
        raise WeightsError(f"{self._what}: refused: {reason} ({self._where()}); {NOTHING_IS_EXECUTED}")

    def _damaged(self, problem):
        raise WeightsError(f"{self._what} is damaged: {problem} ({self._where()})")

    # -- bytes -------------------------------------------------------------------------------------------

    def _take(self, count):
        data = self._stream.read(count)
        if len(data) != count:
            raise WeightsError(
                f"{self._what} is damaged: {self._part} ends at byte {self._position + len(data)}, in the "
                "middle of an instruction; download it again"
            )
        self._position += count
        return data

    def _number(self, form):
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _line(self):
        line = self._stream.readline(MAX_NAME_BYTES + 1)
        self._position += len(line)
        if not line.endswith(b"\n"):
            self._damaged(f"a name is cut short or longer than {MAX_NAME_BYTES} bytes")
        return self._decode(line[:-1])

    def _decode(self, raw):
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            self._damaged("text that is not UTF-8")

    # -- the stack ---------------------------------------------------------------------------------------

    def _pop(self):
        if not self._stack:
            self._damaged("the stack is empty")
        return self._stack.pop()

    def _top(self):
        if not self._stack:
            self._damaged("the stack is empty")
        return self._stack[-1]

    def _push(self, value):
        self._stack.append(value)

    def _mark(self):
        if len(self._outer_stacks) >= MAX_NESTING:
            self._refuse(f"the archive nests values more than {MAX_NESTING} deep")
        self._outer_stacks.append(self._stack)
        self._stack = []

    def _since_mark(self):
        if not self._outer_stacks:
            self._damaged("no mark on the stack")
        values, self._stack = self._stack, self._outer_stacks.pop()
        return values

    # -- instructions ------------------------------------------------------------------------------------

    def _protocol(self):
        version = self._number("<B")
        if not 2 <= version <= 5:
            self._refuse(f"the pickle's protocol is {version}, expected 2 to 5")

    def _frame(self):
        length = self._number("<Q")
        if length > MAX_PICKLE_BYTES:
            self._damaged(f"a frame of {length} bytes")

    def _text(self, form):
        length = self._number(form)
        if length > MAX_TEXT_BYTES:
            self._refuse(f"the archive holds a text of {length} bytes, expected at most {MAX_TEXT_BYTES}")
        self._push(self._decode(self._take(length)))

    def _long(self):
        length = self._number("<B")
        if length > MAX_INTEGER_BYTES:
            self._refuse(f"the archive holds a whole number of {length} bytes")
        self._push(int.from_bytes(self._take(length), "little", signed=True))

    def _tuple(self, count):
        if len(self._stack) < count:
            self._damaged("too few values for a tuple")
        values = tuple(self._stack[len(self._stack) - count :])
        del self._stack[len(self._stack) - count :]
        self._push(values)

    def _append(self, values):
        target = self._top()
        if type(target) is not list:
            self._refuse(f"the archive appends to {kind_of(target)}")
        target += values

    def _set_items(self, values):
        target = self._top()
        if type(target) not in (dict, OrderedDict):
            self._refuse(f"the archive sets items of {kind_of(target)}")
        if len(values) % 2:
            self._damaged("a key without a value")
        for key, value in zip(values[::2], values[1::2]):
            # Keys of other kinds could be made to collide, or to compare without end.
            if type(key) not in (str, int):
                self._refuse(f"the archive has a dict with {kind_of(key)} as a key")
            target[key] = value

    def _recall(self, index):
        if index not in self._memo:
            self._damaged(f"value {index} is used before it was made")
        self._push(self._memo[index])

    def _remember(self, index):
        self._memo[index] = self._top()

    def _global(self):
        self._mention(Global(self._line(), self._line()))

    def _stack_global(self):
        name, module = self._pop(), self._pop()
        if type(name) is not str or type(module) is not str:
            self._refuse("the archive names a global with something that is not text")
        self._mention(Global(module, name))

    def _mention(self, name):
        is_class = self._torchscript and f"{name.module}.".startswith("__torch__.")
        if name not in STORAGE_DTYPES and name not in FUNCTIONS and not is_class:
            hint = ""
            if name.module.startswith(("torch.nn.", "clip.", "open_clip.", "transformers.")):
                hint = " (a whole model was saved; save its state_dict() instead)"
            self._refuse(f"the archive asks for {name}{hint}")
        self._push(name)

    def _call(self):
        arguments, function = self._pop(), self._pop()
        if type(function) is not Global or function not in FUNCTIONS:
            self._refuse(f"the archive calls {kind_of(function)}")
        if type(arguments) is not tuple:
            self._refuse(f"the archive calls {function} with {kind_of(arguments)}")
        self._push(FUNCTIONS[function](self, function, arguments))

    def _new_object(self):
        arguments, name = self._pop(), self._pop()
        if type(name) is not Global or not f"{name.module}.".startswith("__torch__."):
            self._refuse(f"the archive makes an object of {kind_of(name)}")
        if arguments != ():
            self._refuse(f"the archive makes an object of {name} with arguments")
        self._push(ScriptObject(str(name)))

    def _build(self):
        state, target = self._pop(), self._top()
        if type(state) is not dict or any(type(key) is not str for key in state):
            self._refuse(f"the archive sets the state of {kind_of(target)} to {kind_of(state)}")
        if type(target) is ScriptObject and target.attributes is None:
            target.attributes = state
        elif type(target) is not OrderedDict:
            self._refuse(f"the archive sets the state of {kind_of(target)}")

    def _persistent(self):
        identity = self._pop()
        # Old versions add a sixth entry, which is None unless the storage is a part of another one.
        if (
            type(identity) is not tuple
            or len(identity) not in (5, 6)
            or identity[5:] not in ((), (None,))
            or [type(entry) for entry in identity[:5]] != [str, Global, str, str, int]
            or identity[0] != "storage"
        ):
            self._refuse("the archive refers to something that is not a whole storage")
        _, kind, key, _, numel = identity[:5]
        if kind not in STORAGE_DTYPES:
            self._refuse(f"the archive has a storage of the kind {kind}")
        if not (key.isascii() and key.isalnum() and len(key) <= 64):
            self._refuse(f"the archive has a storage called {shortened(key)}")
        dtype = STORAGE_DTYPES[kind]
        if not 0 <= numel < (1 << 63) // DTYPE_BITS[dtype]:
            self._refuse(f"the archive has a storage of {numel} numbers")
        storage = Storage(key, dtype, numel)
        if self.storages.setdefault(key, storage) != storage:
            self._refuse(f"the archive describes the storage {key} in two ways")
        self._push(storage)

    # -- what the global names stand for -----------------------------------------------------------------

    def _make_ordered_dict(self, function, arguments):
        if arguments:
            self._refuse(f"the archive calls {function} with arguments")
        return OrderedDict()

    def _make_tensor(self, function, arguments):
        if len(arguments) not in (6, 7):
            self._refuse(f"the archive calls {function} with {len(arguments)} arguments, expected 6 or 7")
        storage, offset, shape, strides, needs_gradient, hooks, *more = arguments
        if type(storage) is not Storage:
            self._refuse(f"the archive makes a tensor of {kind_of(storage)}")
        if type(needs_gradient) is not bool or not all(map(_is_empty_dict, (hooks, *more))):
            # Among the properties may be a mark that the numbers are to be negated or conjugated.
            self._refuse("the archive makes a tensor with hooks or properties of its own")
        if type(shape) is not tuple or type(strides) is not tuple or len(shape) != len(strides):
            self._refuse("the archive makes a tensor whose shape and strides do not match")
        if len(shape) > MAX_RANK:
            self._refuse(f"the archive makes a tensor of {len(shape)} axes, expected at most {MAX_RANK}")
        if not all(type(number) is int and 0 <= number < 1 << 63 for number in (offset, *shape, *strides)):
            self._refuse("the archive makes a tensor whose shape, strides or offset are no sizes")
        bound = DTYPE_BITS[storage.dtype]
        for size in shape:
            bound *= max(size, 1)  # an axis of 0 must not hide axes that no array can have
            if bound >= 1 << 63:
                self._refuse(f"the archive makes a tensor of shape {list(shape)}, which is too large")
        last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides))
        if (last >= storage.numel) if 0 not in shape else (offset > storage.numel):
            self._refuse(
                f"the archive makes a tensor of shape {list(shape)}, strides {list(strides)} and offset "
                f"{offset} from a storage of {storage.numel} numbers, beyond its end"
            )
        return StoredTensor(storage, offset, shape, strides)

    def _make_parameter(self, function, arguments):
        if len(arguments) != 3 or type(arguments[0]) is not StoredTensor:
            self._refuse(f"the archive calls {function} with something that is not a tensor")
        if type(arguments[1]) is not bool or not _is_empty_dict(arguments[2]):
            self._refuse("the archive makes a parameter with hooks")
        return arguments[0]

    def _make_list(self, function, arguments):
        if len(arguments) != 1 or type(arguments[0]) is not list:
            self._refuse(f"the archive calls {function} with something that is not a list")
        return arguments[0]

    def _make_tagged(self, function, arguments):
        if len(arguments) != 2 or type(arguments[1]) is not str:
            self._refuse(f"the archive calls {function} with something that is not a value and its type")
        return arguments[0]

    def _make_device(self, function, arguments):
        if len(arguments) not in (1, 2) or type(arguments[0]) is not str:
            self._refuse(f"the archive calls {function} with something that is not a device")
        return arguments[0]

    def _make_size(self, function, arguments):
        if len(arguments) != 1 or type(arguments[0]) not in (tuple, list):
            self._refuse(f"the archive calls {function} with something that is not a list of sizes")
        return tuple(arguments[0])


# What a name may be called with, and what comes of it.
FUNCTIONS = {
    Global("collections", "OrderedDict"): PickleReader._make_ordered_dict,
    Global("torch._utils", "_rebuild_tensor_v2"): PickleReader._make_tensor,
    Global("torch._utils", "_rebuild_parameter"): PickleReader._make_parameter,
    Global("torch", "Size"): PickleReader._make_size,
    Global("torch", "device"): PickleReader._make_device,
    # Lists and dicts among the attributes of TorchScript objects.
    Global("torch.jit._pickle", "build_intlist"): PickleReader._make_list,
    Global("torch.jit._pickle", "build_doublelist"): PickleReader._make_list,
    Global("torch.jit._pickle", "build_boollist"): PickleReader._make_list,
    Global("torch.jit._pickle", "build_tensorlist"): PickleReader._make_list,
    Global("torch.jit._pickle", "restore_type_tag"): PickleReader._make_tagged,
}

STOP = 0x2E

# Opcode: its name in `pickle`, and what to do.
INSTRUCTIONS = {
    0x80: ("PROTO", PickleReader._protocol),
    0x95: ("FRAME", PickleReader._frame),
    STOP: ("STOP", None),
    0x28: ("MARK", PickleReader._mark),
    0x4E: ("NONE", lambda self: self._push(None)),
    0x88: ("NEWTRUE", lambda self: self._push(True)),
    0x89: ("NEWFALSE", lambda self: self._push(False)),
    0x4A: ("BININT", lambda self: self._push(self._number("<i"))),
    0x4B: ("BININT1", lambda self: self._push(self._number("<B"))),
    0x4D: ("BININT2", lambda self: self._push(self._number("<H"))),
    0x8A: ("LONG1", PickleReader._long),
    0x47: ("BINFLOAT", lambda self: self._push(self._number(">d"))),
    0x58: ("BINUNICODE", lambda self: self._text("<I")),
    0x8C: ("SHORT_BINUNICODE", lambda self: self._text("<B")),
    0x8D: ("BINUNICODE8", lambda self: self._text("<Q")),
    0x29: ("EMPTY_TUPLE", lambda self: self._push(())),
    0x74: ("TUPLE", lambda self: self._push(tuple(self._since_mark()))),
    0x85: ("TUPLE1", lambda self: self._tuple(1)),
    0x86: ("TUPLE2", lambda self: self._tuple(2)),
    0x87: ("TUPLE3", lambda self: self._tuple(3)),
    0x5D: ("EMPTY_LIST", lambda self: self._push([])),
    0x61: ("APPEND", lambda self: self._append([self._pop()])),
    0x65: ("APPENDS", lambda self: self._append(self._since_mark())),
    0x7D: ("EMPTY_DICT", lambda self: self._push({})),
    0x73: ("SETITEM", lambda self: self._set_items([self._pop(), self._pop()][::-1])),
    0x75: ("SETITEMS", lambda self: self._set_items(self._since_mark())),
    0x68: ("BINGET", lambda self: self._recall(self._number("<B"))),
    0x6A: ("LONG_BINGET", lambda self: self._recall(self._number("<I"))),
    0x71: ("BINPUT", lambda self: self._remember(self._number("<B"))),
    0x72: ("LONG_BINPUT", lambda self: self._remember(self._number("<I"))),
    0x94: ("MEMOIZE", lambda self: self._remember(len(self._memo))),
    0x63: ("GLOBAL", PickleReader._global),
    0x93: ("STACK_GLOBAL", PickleReader._stack_global),
    0x52: ("REDUCE", PickleReader._call),
    0x81: ("NEWOBJ", PickleReader._new_object),
    0x62: ("BUILD", PickleReader._build),
    0x51: ("BINPERSID", PickleReader._persistent),
}

# Those that no state dict needs, for messages.
REFUSED = {
    0x30: "POP", 0x31: "POP_MARK", 0x32: "DUP", 0x46: "FLOAT", 0x49: "INT", 0x4C: "LONG", 0x8B: "LONG4",
    0x53: "STRING", 0x54: "BINSTRING", 0x55: "SHORT_BINSTRING", 0x56: "UNICODE", 0x50: "PERSID",
    0x69: "INST", 0x6F: "OBJ", 0x64: "DICT", 0x6C: "LIST", 0x67: "GET", 0x70: "PUT",
    0x82: "EXT1", 0x83: "EXT2", 0x84: "EXT4", 0x42: "BINBYTES", 0x43: "SHORT_BINBYTES", 0x8E: "BINBYTES8",
    0x8F: "EMPTY_SET", 0x90: "ADDITEMS", 0x91: "FROZENSET", 0x92: "NEWOBJ_EX", 0x96: "BYTEARRAY8",
    0x97: "NEXT_BUFFER", 0x98: "READONLY_BUFFER",
}  # fmt: skip


def _opcode_name(code):
    return INSTRUCTIONS[code][0] if code in INSTRUCTIONS else REFUSED.get(code, f"0x{code:02x}")


def _is_empty_dict(value):
    return type(value) in (dict, OrderedDict) and not value


def kind_of(value):
    """What a value is, in words; never its content, which may be endless."""
    if type(value) is Global:
        return str(value)
    if type(value) is ScriptObject:
        return f"an object of {value.class_name}"
    return {
        int: "a number", float: "a number", str: "a text", bool: "a truth value", type(None): "None",
        list: "a list", tuple: "a tuple", dict: "a dict", OrderedDict: "a dict", Storage: "a storage",
        StoredTensor: "a tensor",
    }[type(value)]  # fmt: skip
