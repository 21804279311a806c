"""Arithmetic that a file states as text, such as "ceil(width / 32) * ceil(height / 32)"."""

from __future__ import annotations

import ast
import functools
import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

MOST_LETTERS = 200

_OPERATORS: Mapping[type, Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_FUNCTIONS: Mapping[str, Callable[..., float]] = {"ceil": math.ceil, "min": min, "max": max}


@functools.lru_cache(maxsize=64)
def calculate(formula: str, **values: float) -> float:
    """The value of a formula of numbers, names, + - * / and ceil, min and max.

    >>> calculate("ceil(width / 32) * 1.5", width=33)
    3.0

    Raises:
        ValueError: the text is no such formula, or its value is not finite.
    """
    rule = f"must be made of numbers, {', '.join(values)}, + - * / ( ) and ceil, min or max, but got {formula!r}"
    if len(formula) > MOST_LETTERS:
        raise ValueError(f"must be a formula of at most {MOST_LETTERS} letters, but got {len(formula)}")
    try:
        value = float(_value(ast.parse(formula, mode="eval").body, values))
    except (SyntaxError, KeyError, TypeError, ValueError, ArithmeticError, RecursionError):
        raise ValueError(rule) from None
    if not math.isfinite(value):
        raise ValueError(rule)
    return value


def _value(node: Any, values: Mapping[str, float]) -> float:
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return number
        case ast.Name(id=name):
            return values[name]
        case ast.BinOp(left=left, op=op, right=right):
            return _OPERATORS[type(op)](_value(left, values), _value(right, values))
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand, values)
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
            return _FUNCTIONS[name](*(_value(argument, values) for argument in arguments))
    raise ValueError("not arithmetic")
