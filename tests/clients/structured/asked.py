"""What each check asks of the server, and the types and the tool that all of them use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

# Bounded, so that also a small model that rambles comes to an end.
City = Annotated[str, Field(max_length=30)]


class Weather(BaseModel):
    """The weather in a city."""

    city: City
    degrees: Annotated[int, Field(ge=-60, le=60)]
    sky: Literal["clear", "cloudy"]


WEATHER_OF_CITY: dict[str, Any] = {
    "name": "get_weather",
    "description": "Says the weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 30}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
TOOL: dict[str, Any] = {"type": "function", "function": WEATHER_OF_CITY}


def get_weather(city: City) -> str:
    """Says the weather in a city."""
    return f"20 degrees in {city}"


@dataclass(frozen=True)
class Asked:
    url: str
    key: str
    model: str
    question: str  # begins with the name of the check, by which the test finds what the server was asked

    @property
    def messages(self) -> list[Any]:
        return [{"role": "user", "content": self.question}]
