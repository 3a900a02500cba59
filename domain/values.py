"""The value types that all areas share: identifiers, times, quantities and money."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Final

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
)

ID_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"

_CODES = """
    AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BRL BSD BTN
    BWP BYN BZD CAD CDF CHF CLP CNY COP CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR FJD
    FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY
    KES KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP
    MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR
    RON RSD RUB RWF SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT
    TND TOP TRY TTD TWD TZS UAH UGX USD UYU UZS VED VES VND VUV WST XAF XCD XOF XPF YER ZAR
    ZMW ZWG
"""
#: ISO 4217 codes in circulation (2025), funds and metals left out.
CURRENCIES = frozenset(_CODES.split())


#: Currencies whose minor unit is not a hundredth (ISO 4217): how many decimal places they have.
_WHOLE = "CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_THOUSANDTHS = "BHD IQD JOD KWD LYD OMR TND"
_DECIMALS = dict.fromkeys(_WHOLE.split(), 0) | dict.fromkeys(_THOUSANDTHS.split(), 3)


def money(minor: float, currency: str | None) -> str:
    """An amount in minor units as people write it, as "5.40 EUR" or "540 JPY"; two decimal places
    where the currency is not known."""
    places = _DECIMALS.get(currency or "", 2)
    amount = f"{minor / 10**places:,.{places}f}"
    return amount if currency is None else f"{amount} {currency}"


def _currency(code: str) -> str:
    if code not in CURRENCIES:
        raise ValueError(f"{code!r} is not an ISO 4217 currency code in circulation")
    return code


def _utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{moment.isoformat()} is outside the calendar in UTC") from None


def _storable(text: str) -> str:
    # Postgres has no place for it in text or JSON: one such fact would stop every read model.
    if "\0" in text:
        raise ValueError("must not hold the character U+0000")
    return text


#: Business identifier: letters, digits, dot, dash and underscore, 1 to 64 characters.
Id = Annotated[str, Field(pattern=ID_PATTERN)]
#: What a decision is about: an identifier, or two as in "S-AMS/SKU-001".
SubjectId = Annotated[
    str, Field(pattern=rf"{ID_PATTERN[:-1]}(/[A-Za-z0-9][A-Za-z0-9._-]{{0,63}})?$")
]
#: A moment with zone, kept in UTC.
UtcTime = Annotated[AwareDatetime, AfterValidator(_utc)]
#: ISO 4217 code.
Currency = Annotated[str, AfterValidator(_currency)]
#: Money in minor units (cents) of the currency named beside it.
Minor = Annotated[int, Field(ge=0, le=10**15)]
#: Exact count of pieces, litres or kilograms: above zero, up to three decimal places.
Quantity = Annotated[Decimal, Field(gt=0, max_digits=15, decimal_places=3)]
#: As Quantity, of either sign.
Change = Annotated[Decimal, Field(max_digits=15, decimal_places=3)]
#: Any text that can be stored.
Words = Annotated[str, AfterValidator(_storable)]
#: A short text that people wrote.
Text = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_storable)]
#: Region code such as a state or a postal area.
Region = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]{1,16}$")]


#: The context in which events are read from the log.
STORED: Final = {"stored": True}


def is_stored(info: ValidationInfo) -> bool:
    """Whether a value is being read from the log. What was recorded stands: a rule that a JSON
    schema cannot tell is for what is new, or the log could not be read once it is stricter."""
    return info.context is STORED


class Value(BaseModel):
    """A frozen value without identity; unknown fields are an error.

    Numbers are finite: JSON has no word for the others, so they could not be read back. Messages
    about wrong values do not quote them: a value may be personal, and pydantic asks the outermost
    class only; the values are in the error's ``errors()``.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True
    )


class Event(Value):
    """A business fact, named in the past tense. Its JSON is what the log stores."""


class Command(Value):
    """A wish, named in the imperative. Times and identifiers come in with it."""


def seconds(start: datetime | None, end: datetime | None) -> int | None:
    """Whole seconds from start to end; None where one of them is not known."""
    return None if start is None or end is None else int((end - start).total_seconds())
