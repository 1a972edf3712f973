"""Another value than the one that a setting has, for tests that change every setting."""

from __future__ import annotations

from typing import Any, Literal, get_args, get_origin

import annotated_types


def other_value(field: Any, now: Any) -> Any:
    """Another value than `now` that the field may have, or None where a number or a choice would be guessing."""
    hints, types, choices = [field.annotation], set[Any](), list[Any]()
    while hints:
        hint = hints.pop()
        if get_origin(hint) is Literal:
            choices += [choice for choice in get_args(hint) if choice != now]
        elif get_origin(hint) is not None:
            types.add(get_origin(hint))
            hints += get_args(hint)
        else:
            types.add(hint)
    if {list, dict} & types or str in types:
        return None
    if choices or bool in types:
        return choices[0] if choices else not now
    low = max((getattr(m, "ge", getattr(m, "gt", 0)) for m in field.metadata if _is_low(m)), default=0)
    top = min(
        (getattr(m, "le", getattr(m, "lt", 10**9)) for m in field.metadata if _is_top(m)), default=10**9
    )
    if int in types and float not in types:
        return now + 1 if isinstance(now, int) and now > 0 else max(low, 4)
    more = (now or low or 1.5) * 1.5
    return more if more < top else (now or 0) * 0.5 + top * 0.4


def _is_low(item: Any) -> bool:
    return isinstance(item, annotated_types.Ge | annotated_types.Gt)


def _is_top(item: Any) -> bool:
    return isinstance(item, annotated_types.Le | annotated_types.Lt)
