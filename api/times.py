"""Times as clients send them. Pydantic takes a number for seconds since 1970 as well; that is not
documented, and a mistake wherever it is sent."""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any

from pydantic import AwareDatetime, BeforeValidator

_NUMBER = re.compile(r"\s*[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?\s*", re.IGNORECASE)


def _no_number(value: Any) -> Any:
    if isinstance(value, int | float) or (isinstance(value, str) and _NUMBER.fullmatch(value)):
        raise ValueError("must be written out as RFC 3339 has it, as 2026-03-31T23:59:59Z")
    return value


def _no_number_of_days(value: Any) -> Any:
    if isinstance(value, int | float) or (isinstance(value, str) and _NUMBER.fullmatch(value)):
        raise ValueError("must be written out as RFC 3339 has it, as 2026-03-31")
    return value


#: For a field that holds a time.
WRITTEN_OUT = BeforeValidator(_no_number)
#: A moment with its zone.
Timestamp = Annotated[AwareDatetime, WRITTEN_OUT]
#: A day of the calendar.
Day = Annotated[date, BeforeValidator(_no_number_of_days)]
