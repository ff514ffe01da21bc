"""Rotary position embeddings: inverse frequencies as transformers computes them, and tables.

Supported: default, linear, llama3, yarn (with DeepSeek's mscale).  "dynamic" and "longrope" are
refused: their frequencies depend on the length of the sequence, so a cached key would be wrong
as soon as the sequence grew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tribody.core.errors import BadModel
from tribody.models.config_reader import ConfigReader
from tribody.ops.table import F32, I64

KINDS = ("default", "linear", "llama3", "yarn")
TABLE_ROWS = 1024  # positions computed at a time; a step's positions are then only looked up


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """One model's rotary embedding; fields that its kind does not use keep their defaults.

    `attention_factor` multiplies cos and sin (YaRN).  `softmax_factor` multiplies the softmax
    scale: DeepSeek's rule m^2 with m = 0.1 mscale_all_dim ln(factor) + 1.
    """

    dim: int
    theta: float
    kind: str = "default"
    factor: float = 1.0
    original_positions: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0
    softmax_factor: float = 1.0


def yarn_mscale(factor: float, mscale: float) -> float:
    """0.1 mscale ln(factor) + 1, and 1 when nothing is stretched.  Source: YaRN, section 3.4."""
    return 1.0 if factor <= 1.0 else 0.1 * mscale * math.log(factor) + 1.0


def read_rope(config: ConfigReader, dim: int, max_positions: int) -> tuple[RopeConfig, list[str]]:
    """The rotary part of a config.json, as transformers 4 (`rope_scaling` and `rope_theta`) or 5
    (`rope_parameters`) write it.  Returns it and the names of keys that are not known.

    Raises: BadModel for an unsupported kind, an odd `dim` or a missing parameter.
    """
    if dim % 2:
        raise BadModel(f"config.json: the rotary dimension {dim} is odd; pairs are rotated")
    old = config.section("rope_scaling")
    new = config.section("rope_parameters")
    section = new or old
    outer_theta = config.number("rope_theta", 10000.0)
    outer_original = config.integer("original_max_position_embeddings", 0, minimum=0)
    if section is None:
        return RopeConfig(dim, outer_theta), []
    section.only("partial_rotary_factor", (1,))
    legacy = section.choice("type", KINDS, "default")
    kind = section.choice("rope_type", KINDS, legacy)
    theta = section.number("rope_theta", outer_theta)
    original = outer_original or section.integer("original_max_position_embeddings", max_positions)
    if kind == "default":
        rope = RopeConfig(dim, theta)
    elif kind == "linear":
        rope = RopeConfig(dim, theta, kind, section.number("factor"))
    elif kind == "llama3":
        rope = RopeConfig(
            dim,
            theta,
            kind,
            section.number("factor"),
            original,
            low_freq_factor=section.number("low_freq_factor"),
            high_freq_factor=section.number("high_freq_factor"),
        )
    else:
        rope = _read_yarn(section, RopeConfig(dim, theta, kind, original_positions=original))
    return rope, list(section.unknown())


def _read_yarn(section: ConfigReader, start: RopeConfig) -> RopeConfig:
    factor = section.number("factor")
    # Some configs state 0 for "not used"; transformers' own rule is `if mscale and mscale_all_dim`.
    mscale = section.number("mscale") if section.get("mscale") else 0.0
    mscale_all_dim = section.number("mscale_all_dim") if section.get("mscale_all_dim") else 0.0
    if mscale and mscale_all_dim:
        inferred = yarn_mscale(factor, mscale) / yarn_mscale(factor, mscale_all_dim)
    else:
        inferred = yarn_mscale(factor, 1.0)
    stretch = yarn_mscale(factor, mscale_all_dim) if mscale_all_dim else 1.0
    return RopeConfig(
        start.dim,
        start.theta,
        "yarn",
        factor,
        start.original_positions,
        beta_fast=section.number("beta_fast", 32.0),
        beta_slow=section.number("beta_slow", 1.0),
        truncate=section.flag("truncate", True),
        attention_factor=section.number("attention_factor", inferred),
        softmax_factor=stretch * stretch,
    )


def inverse_frequencies(rope: RopeConfig) -> F32:
    """(dim / 2,) float32 radians per position, in the order of transformers' operations."""
    exponents = np.arange(0, rope.dim, 2, dtype=np.float32) / np.float32(rope.dim)
    periods = np.float32(rope.theta) ** exponents
    plain: F32 = np.float32(1) / periods
    if rope.kind == "linear":
        return plain / np.float32(rope.factor)
    if rope.kind == "llama3":
        return _llama3(plain, rope)
    if rope.kind == "yarn":
        stretched = np.float32(1) / (np.float32(rope.factor) * periods)
        keep = np.float32(1) - _yarn_ramp(rope)
        mixed: F32 = stretched * (np.float32(1) - keep) + plain * keep
        return mixed
    return plain


def _llama3(plain: F32, rope: RopeConfig) -> F32:
    """Long waves are stretched, short ones kept, those between interpolated.  Source: Llama 3.1."""
    wavelengths = np.float32(2 * math.pi) / plain
    longest = rope.original_positions / rope.low_freq_factor
    shortest = rope.original_positions / rope.high_freq_factor
    smooth = (np.float32(rope.original_positions) / wavelengths - rope.low_freq_factor) / (
        rope.high_freq_factor - rope.low_freq_factor
    )
    between = (1 - smooth) * plain / rope.factor + smooth * plain
    result = np.where(wavelengths > longest, plain / rope.factor, plain)
    medium = (wavelengths >= shortest) & (wavelengths <= longest)
    return np.where(medium, between, result).astype(np.float32)


def _yarn_ramp(rope: RopeConfig) -> F32:
    """(dim / 2,): 0 where a frequency is kept, 1 where it is stretched.  Source: YaRN, eq. 13."""

    def dimension_with(rotations: float) -> float:
        turns = rope.original_positions / (rotations * 2 * math.pi)
        return rope.dim * math.log(turns) / (2 * math.log(rope.theta))

    low, high = dimension_with(rope.beta_fast), dimension_with(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dim - 1)
    if low == high:
        high += 0.001  # as transformers: a step instead of a division by zero
    ramp = (np.arange(rope.dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(high - low)
    clipped: F32 = np.clip(ramp, 0, 1).astype(np.float32)
    return clipped


class RopeTable:
    """cos and sin of every position reached so far, computed in fixed pieces of 1024 positions,
    so that a position's values never depend on the step that first asked for them."""

    def __init__(self, rope: RopeConfig) -> None:
        self._frequencies = inverse_frequencies(rope)
        self._factor = np.float32(rope.attention_factor)
        self._cos = np.empty((0, rope.dim // 2), np.float32)
        self._sin = np.empty((0, rope.dim // 2), np.float32)

    def rows(self, positions: I64) -> tuple[F32, F32]:
        """cos, sin (T, dim / 2) of the given positions, new arrays."""
        try:
            return self._cos[positions], self._sin[positions]
        except IndexError:  # looking first would take as long as the look-up
            self._grow(int(positions.max()) + 1)
        return self._cos[positions], self._sin[positions]

    def table(self, length: int) -> tuple[F32, F32]:
        """cos, sin (N, dim / 2) of positions [0, N), N >= length; not to be changed."""
        if len(self._cos) < length:
            self._grow(length)
        return self._cos, self._sin

    def _grow(self, length: int) -> None:
        """Double until `length` fits; TABLE_ROWS at the least."""
        rows = max(2 * len(self._cos), TABLE_ROWS)
        while rows < length:
            rows *= 2
        pieces = [
            np.arange(first, first + TABLE_ROWS, dtype=np.float32)[:, None] * self._frequencies
            for first in range(len(self._cos), rows, TABLE_ROWS)
        ]
        self._cos = np.concatenate([self._cos, *(np.cos(p) * self._factor for p in pieces)])
        self._sin = np.concatenate([self._sin, *(np.sin(p) * self._factor for p in pieces)])
