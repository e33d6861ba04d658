"""Get an answer that follows a JSON schema, here the schema of a pydantic model.

Every token is constrained, so the answer is valid whatever the model would have written.

`python examples/json_schema.py [URL]`
"""

import sys
from typing import Any, Literal

from openai import OpenAI
from pydantic import BaseModel, ConfigDict, Field


class City(BaseModel):
    """What the model fills in. Other properties are forbidden: it could add them without end."""

    model_config = ConfigDict(extra="forbid")
    name: str = Field(max_length=12)
    size: Literal["small", "large"]
    coastal: bool


schema = City.model_json_schema()
response_format: Any = {"type": "json_schema", "json_schema": {"name": "city", "schema": schema}}
url = sys.argv[1] if len(sys.argv) > 1 else "http://localhost:3000"
with OpenAI(base_url=f"{url}/v1", api_key="-") as client:
    answer = client.chat.completions.create(
        model="tgi",
        messages=[{"role": "user", "content": "Describe a city."}],
        response_format=response_format,
        max_tokens=100,
    )
print(City.model_validate_json(answer.choices[0].message.content or ""))
