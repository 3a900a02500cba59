"""Dangerous goods as ADR has them: UN number, hazard class, packing group, tunnel code.

ADR: Agreement concerning the International Carriage of Dangerous Goods by Road (UNECE), 2.1.1.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, model_validator

from domain.values import Value, is_stored

#: Class of ADR 2.1.1.1; with its division where somebody tells it (UN Model Regulations 2.0.1.1).
HazardClass = Literal[
    "1", "1.1", "1.2", "1.3", "1.4", "1.5", "1.6", "2", "2.1", "2.2", "2.3", "3", "4.1", "4.2",
    "4.3", "5.1", "5.2", "6.1", "6.2", "7", "8", "9",
]  # fmt: skip
#: ``UN`` and four digits, which name a dangerous substance or article (ADR 3.2, table A).
UnNumber = Annotated[str, Field(pattern=r"^UN[0-9]{4}$", examples=["UN1263"])]
#: I great, II medium, III low danger (ADR 2.1.1.3).
PackingGroup = Literal["I", "II", "III"]
#: Tunnel restriction code of goods (ADR 8.6.4).
TunnelCode = Literal["B", "B1000C", "B/D", "B/E", "C", "C5000D", "C/D", "C/E", "D", "D/E", "E"]

#: ADR 2.1.1.3: goods of these classes, their divisions too, have no packing group.
_WITHOUT_GROUP = ("1", "2", "5.2", "6.2", "7")


class Hazard(Value):
    """What makes a product dangerous on the road. ``tunnel_code`` None: no tunnel is closed to
    it."""

    un_number: UnNumber
    hazard_class: HazardClass = Field(examples=["3"])
    packing_group: PackingGroup | None = None
    tunnel_code: TunnelCode | None = None

    @model_validator(mode="after")
    def _group_fits_the_class(self, info: ValidationInfo) -> Self:
        kind = self.hazard_class
        without = kind in _WITHOUT_GROUP or kind.partition(".")[0] in _WITHOUT_GROUP
        if self.packing_group is not None and without and not is_stored(info):
            raise ValueError(
                f"packing_group: goods of class {kind} have none (ADR 2.1.1.3), got "
                f"{self.packing_group}"
            )
        return self
