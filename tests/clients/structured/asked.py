"""What each check asks of the server, and the types and the tool that all of them use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel


class Weather(BaseModel):
    """The weather in a city."""

    city: str
    degrees: int
    sky: Literal["clear", "cloudy"]


WEATHER_OF_CITY: dict[str, Any] = {
    "name": "get_weather",
    "description": "Says the weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TOOL: dict[str, Any] = {"type": "function", "function": WEATHER_OF_CITY}


def get_weather(city: str) -> str:
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
