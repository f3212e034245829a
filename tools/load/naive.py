"""What one writes first: a FastAPI route that embeds one request at a time.

python -m tools.load.naive PORT
"""

from __future__ import annotations

import sys
import threading
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

import ume_core


class Body(BaseModel):
    """A text, and how."""

    input: str
    mode: Any = "disc"
    max_new_tokens: int | None = None


def main() -> None:
    """Serve."""
    model = ume_core.load("ume-nano", engine="torch", device="cpu", dtype="float32")
    app, one = FastAPI(), threading.Lock()

    @app.post("/v1/embeddings")
    def embed(body: Body) -> dict[str, Any]:
        with one:
            result = model.embed([body.input], mode=body.mode, max_new_tokens=body.max_new_tokens)
        vectors = result.vectors("gen" if body.mode == "gen" else "disc")
        usage = {"completion_tokens": result.records[0].generated_tokens}
        return {"data": [{"embedding": vectors[0].tolist()}], "usage": usage}

    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")


if __name__ == "__main__":
    main()
