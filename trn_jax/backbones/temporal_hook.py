"""Temporal ops inside 2-D backbones: which blocks have one, and where."""

from collections.abc import Callable
from dataclasses import dataclass

from trn_jax.errors import UserError

_PLACES = ("blockres", "block")


@dataclass(frozen=True, kw_only=True)
class TemporalHook:
    """Adds the temporal op of TSM or TIN to the blocks of a backbone.

    Attributes:
        op: function of a number of channels; returns a map of `[frames, height, width, channels]`
            to the same shape, for the input of a block.
        shift_place: "blockres" puts the op before `conv1`, in the residual branch only; "block"
            puts it before the whole block, shortcut included. `None` is the backbone's default.
        shift_every: one block in so many of each stage has the op, starting with the first.
            `None` is TSM's rule: with "blockres" 2 if the third stage has at least 23 blocks
            (ResNet-101, -152), otherwise 1.

    Raises:
        UserError: for another `shift_place`, or a `shift_every` below 1.
    """

    op: Callable
    shift_place: str | None = None
    shift_every: int | None = None

    def __post_init__(self):
        if self.shift_place not in (None, *_PLACES):
            raise UserError(f"shift_place={self.shift_place!r} is not one of {', '.join(_PLACES)}")
        if self.shift_every is not None and self.shift_every < 1:
            raise UserError(
                f"shift_every={self.shift_every} must be at least 1, a number of blocks"
            )

    @property
    def place(self):
        """`shift_place`, for residual networks."""
        return self.shift_place or "blockres"

    def check_every_branch(self, network):
        """Check that the op goes before the residual branch of every block, as `network` has it.

        Raises:
            UserError: `shift_place` or `shift_every` has another value.
        """
        if self.place == "block" or self.every(()) > 1:
            raise UserError(
                f"{network} shifts the residual branch of every block with a shortcut, not "
                f"shift_place={self.shift_place!r} with shift_every={self.shift_every}"
            )

    def every(self, depths):
        """`shift_every`, for a network with so many blocks in each stage."""
        if self.shift_every is not None:
            return self.shift_every
        deep = len(depths) > 2 and depths[2] >= 23
        return 2 if deep and self.place == "blockres" else 1
