"""Reads pickles without executing them.

A pickle is a program for a small stack machine. Python's machine imports and calls whatever the
program names; this one has no such instruction: a class or function stays a name, and a call of it
becomes a record of its name and arguments.
"""

import pickletools
import re

from trn_jax.errors import UserError

# Nothing here runs in any case. These names never occur in a file of weights: the file was made to
# attack programs that execute it.
_FORBIDDEN = re.compile(
    r"(?:_pickle|asyncio|bdb|code|codeop|commands|ctypes|importlib|marshal|nt|os|pdb|pickle|pip|"
    r"posix|pty|runpy|shutil|socket|subprocess|sys|timeit|webbrowser)\..*|"
    r"(?:__builtin__|builtins)\."
    r"(?:__import__|apply|breakpoint|compile|eval|exec|execfile|globals|input|open)",
    re.DOTALL,
)

_LITERAL = re.compile(
    r"(?:SHORT_)?(?:BIN)?(?:INT[12]?|LONG[14]?|FLOAT|STRING|UNICODE8?|BYTES8?)|BYTEARRAY8"
)
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_MALFORMED = (
    ArithmeticError,
    AttributeError,
    LookupError,
    MemoryError,
    RecursionError,
    TypeError,
    ValueError,
)


class Global:
    """A class or function that the pickle names, `name` = "module.attribute"; not imported."""

    __slots__ = ("name",)

    def __init__(self, name):
        self.name = name


class Inert:
    """The pickled form of an object of class `name`, which is not created.

    `args` are the arguments of its constructor, `state` its state, `items` its entries if it is a
    mapping.
    """

    __slots__ = ("args", "items", "name", "state")  # one byte of a pickle can create one

    def __init__(self, name, args=()):
        self.name = name
        self.args = args
        self.state = None
        self.items = {}


def load_pickle(file, *, call, persistent):
    """Interpret one pickle.

    Args:
        file: binary file at the start of the pickle, advanced to its end. Its `read(n)` must not
            allocate more than the file has, because n comes from the pickle.
        call: function `(name, args)` for every call of a class or function; returns the value, or
            `None` for an `Inert` one.
        persistent: function of a persistent id; returns its object.

    Returns:
        The value: built-in literals and containers, `Inert`, `Global`, and results of `call` and
        `persistent`. Sets become `Inert`. Dictionary entries with containers as keys are omitted.

    Raises:
        UserError: the pickle is truncated or malformed, or names a function that only runs code.
    """
    machine = _Machine(call, persistent)
    try:
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.step(opcode.name, argument)
    except UserError:
        raise
    except _MALFORMED as error:
        raise UserError(f"its pickle is truncated or malformed ({error})") from error
    raise UserError("its pickle is truncated")


class _Machine:
    def __init__(self, call, persistent):
        self.call = call
        self.persistent = persistent
        self.stack = []
        self.marked = []  # the stacks below the marks
        self.memo = {}

    def step(self, name, argument):
        stack = self.stack
        if _LITERAL.fullmatch(name):
            stack.append(argument)
        elif name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self.memo[argument] = stack[-1]
        elif name == "MEMOIZE":
            self.memo[len(self.memo)] = stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(self.memo[argument])
        elif name == "MARK":
            self.marked.append(stack)
            self.stack = []
        elif name == "POP" and not stack:
            self.above_mark()
        elif name == "POP":
            stack.pop()
        elif name == "POP_MARK":
            self.above_mark()
        elif name == "DUP":
            stack.append(stack[-1])
        elif name not in ("PROTO", "FRAME"):
            self.collect(name, argument)

    def collect(self, name, argument):
        """Instructions that create and fill containers."""
        push, pop = self.push, self.stack.pop
        match name:
            case "EMPTY_LIST":
                push([])
            case "EMPTY_TUPLE":
                push(())
            case "EMPTY_DICT":
                push({})
            case "EMPTY_SET":
                push(Inert("builtins.set"))
            case "LIST":
                push(self.above_mark())
            case "TUPLE":
                push(tuple(self.above_mark()))
            case "DICT":
                push(_dict(self.above_mark()))
            case "FROZENSET":
                push(Inert("builtins.frozenset", tuple(self.above_mark())))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                push(tuple([pop() for _ in range(int(name[-1]))][::-1]))
            case "APPEND" | "APPENDS" | "ADDITEMS":
                values = [pop()] if name == "APPEND" else self.above_mark()
                if isinstance(self.stack[-1], list):
                    self.stack[-1].extend(values)
            case "SETITEM" | "SETITEMS":
                values = [pop(), pop()][::-1] if name == "SETITEM" else self.above_mark()
                target = self.stack[-1]
                (target.items if isinstance(target, Inert) else target).update(_dict(values))
            case _:
                self.refer(name, argument)

    def refer(self, name, argument):
        """Instructions that would import, call and fill objects."""
        pop = self.stack.pop
        if name == "GLOBAL":
            value = _global(*argument.split(" ", 1))
        elif name == "STACK_GLOBAL":
            attribute, module = pop(), pop()
            value = _global(module, attribute)
        elif name in ("EXT1", "EXT2", "EXT4"):
            value = Global(f"extension {argument}")
        elif name == "BINPERSID":
            value = self.persistent(pop())
        elif name in ("REDUCE", "NEWOBJ"):
            args, function = pop(), pop()
            value = self.note_call(function, args)
        elif name == "NEWOBJ_EX":
            _, args, function = pop(), pop(), pop()
            value = self.note_call(function, args)
        elif name == "INST":
            value = self.note_call(_global(*argument.split(" ", 1)), tuple(self.above_mark()))
        elif name == "OBJ":
            function, *args = self.above_mark()
            value = self.note_call(function, tuple(args))
        elif name == "BUILD":
            state, value = pop(), pop()
            if isinstance(value, Inert):
                value.state = state
        else:
            raise ValueError(f"instruction {name} does not occur in weights")
        self.stack.append(value)

    def note_call(self, function, args):
        if not isinstance(function, Global) or not isinstance(args, tuple):
            raise TypeError("a call of a value that is not a function")
        value = self.call(function.name, args)
        return Inert(function.name, args) if value is None else value

    def push(self, value):
        self.stack.append(value)

    def above_mark(self):
        """Pop everything above the last mark."""
        values, self.stack = self.stack, self.marked.pop()
        return values


def _global(module, attribute):
    name = f"{module}.{attribute}"
    if _FORBIDDEN.fullmatch(name):
        raise UserError(
            f"refused: its pickle calls {name}, which can run arbitrary code and never occurs in "
            "weights. Nothing was executed; do not open this file with programs that execute "
            "pickles, and get the weights from a trusted source"
        )
    return Global(name)


def _dict(values):
    # Hashing a tuple of the same tuple of the same tuple ... takes exponential time.
    simple = (str, bytes, int, float, type(None), Global, Inert)
    pairs = zip(values[::2], values[1::2], strict=True)
    return {key: value for key, value in pairs if isinstance(key, simple)}
