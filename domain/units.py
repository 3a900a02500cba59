"""Units of measure: codes of UN/ECE Recommendation 20 (and 21 for packages), with their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field, WithJsonSchema


@dataclass(frozen=True, slots=True)
class Measure:
    """What is known of a unit of measure.

    Attributes:
        whole: it is counted; parts of it there are not.
        weight_g: what one of it weighs, where it is a weight.
        volume_cm3: what one of it takes, where it is a volume.
    """

    name: str
    whole: bool = False
    weight_g: int | None = None
    volume_cm3: int | None = None


#: By code. Those that begin with X are packages of Recommendation 21.
UNITS: Mapping[str, Measure] = {
    "C62": Measure("one (piece)", whole=True),
    "PR": Measure("pair", whole=True),
    "DZN": Measure("dozen", whole=True),
    "SET": Measure("set", whole=True),
    "BX": Measure("box", whole=True),
    "PK": Measure("pack", whole=True),
    "XBG": Measure("bag", whole=True),
    "XBO": Measure("bottle", whole=True),
    "XCT": Measure("carton", whole=True),
    "XDR": Measure("drum", whole=True),
    "XPX": Measure("pallet", whole=True),
    "XRO": Measure("roll", whole=True),
    "GRM": Measure("gram", weight_g=1),
    "KGM": Measure("kilogram", weight_g=1_000),
    "TNE": Measure("tonne (metric)", weight_g=1_000_000),
    "MLT": Measure("millilitre", volume_cm3=1),
    "LTR": Measure("litre", volume_cm3=1_000),
    "HLT": Measure("hectolitre", volume_cm3=100_000),
    "MTQ": Measure("cubic metre", volume_cm3=1_000_000),
    "CMT": Measure("centimetre"),
    "MTR": Measure("metre"),
    "MTK": Measure("square metre"),
}


def _known(code: str) -> str:
    if code not in UNITS:
        told = ", ".join(f"{one} {unit.name}" for one, unit in UNITS.items())
        raise ValueError(
            f"{code[:10]!r} is not a unit of UN/ECE Recommendation 20 that is known here; known: "
            f"{told}"
        )
    return code


#: Code of a unit of measure.
Unit = Annotated[
    str,
    Field(max_length=16),
    AfterValidator(_known),
    WithJsonSchema({"type": "string", "enum": list(UNITS), "examples": ["C62"]}),
]
