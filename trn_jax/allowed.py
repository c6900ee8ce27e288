"""The values that a key of the configuration allows, and how an error message names them."""

import dataclasses
import math
from typing import Any


@dataclasses.dataclass(frozen=True)
class Range:
    """Allowed numbers: from `low` to `high`, without an end that `excluded` names; never NaN.

    Attributes:
        low: the smallest one.
        high: the largest one; infinity itself is never allowed.
        excluded: "low" or "high": that end is not allowed itself.
    """

    low: float
    high: float = math.inf
    excluded: str = ""

    def allows(self, value):
        """Whether a value is a number in the range."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        inside = self.low <= value <= self.high and abs(value) < math.inf
        return inside and value != {"low": self.low, "high": self.high}.get(self.excluded)

    def __str__(self):
        if self.high == math.inf:
            return f"more than {self.low:.10g}" if self.excluded else f"at least {self.low:.10g}"
        end = (
            f"less than {self.high:.10g}"
            if self.excluded == "high"
            else f"at most {self.high:.10g}"
        )
        start = (
            f"more than {self.low:.10g}" if self.excluded == "low" else f"at least {self.low:.10g}"
        )
        return f"{start} and {end}"


@dataclasses.dataclass(frozen=True)
class Each:
    """Allowed tuples: every element is in a range, perhaps in ascending order.

    Attributes:
        range: of each element.
        length: number of elements; 0: any.
        ascending: whether no element may be below the one before.
    """

    range: Range
    length: int = 0
    ascending: bool = False

    def allows(self, value):
        """Whether a value is such a tuple."""
        if not isinstance(value, tuple | list) or not all(map(self.range.allows, value)):
            return False
        if self.ascending and list(value) != sorted(value):
            return False
        return len(value) == self.length if self.length else True

    def __str__(self):
        count = f"{self.length} numbers" if self.length else "numbers"
        order = ", in ascending order" if self.ascending else ""
        return f"{count}, each {self.range}{order}"


@dataclasses.dataclass(frozen=True)
class OneOf:
    """Allowed values, one by one."""

    values: tuple

    def allows(self, value):
        """Whether a value is one of them."""
        return any(value == each and type(value) is type(each) for each in self.values)

    def __str__(self):
        return f"one of {', '.join(map(repr, self.values))}"


Allowed = Range | Each | OneOf


@dataclasses.dataclass(frozen=True)
class Key:
    """A key of the configuration that allows less than its type does.

    Attributes:
        default: its value; a type stands for `None`, which values of that type may replace.
        allowed: the values besides `None`.
    """

    default: Any
    allowed: Allowed


COUNT = Range(1)
FRAMES = Range(1, 1 << 14)
SHARE = Range(0, 1)
NOT_NEGATIVE = Range(0)
