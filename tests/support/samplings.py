"""Sampling parameters that tests of the engine share: each alone, and all at once."""

from __future__ import annotations

from shard.wire.protocol import LogitBias, ReportOptions, Sampling

GREEDY = Sampling()
SAMPLED = Sampling(seed=7, temperature=0.8, top_k=40, top_p=0.9, repetition_penalty=1.1)
TOKENS_ONLY = ReportOptions()
EOS = 5
"""The token that ends texts in tests where texts end."""
EOS_IDS = (EOS, 9, 33)
"""The same for several tokens."""
SAMPLINGS: dict[str, Sampling] = {
    "temperature": Sampling(temperature=1.3),
    "top-k": Sampling(temperature=1.0, top_k=7),
    "top-p": Sampling(temperature=1.0, top_p=0.8),
    "typical-p": Sampling(temperature=1.0, typical_p=0.6),
    "min-p": Sampling(temperature=1.0, min_p=0.05),
    "repetition": Sampling(repetition_penalty=1.3),
    "frequency": Sampling(frequency_penalty=1.1),
    "presence": Sampling(presence_penalty=1.7),
    "bias": Sampling(bias=(LogitBias(3, 5.0), LogitBias(9, -5.0))),
    "watermark": Sampling(watermark=True),
    "minimum": Sampling(min_new_tokens=12),
    "all": Sampling(
        temperature=0.9,
        top_k=60,
        top_p=0.95,
        typical_p=0.95,
        min_p=0.001,
        repetition_penalty=1.1,
        frequency_penalty=0.4,
        presence_penalty=-0.3,
        bias=(LogitBias(3, 2.0), LogitBias(EOS, 4.0)),
        watermark=True,
        min_new_tokens=9,
    ),
}
_HOST_ONLY = ("repetition", "frequency", "presence", "bias", "watermark", "all")
DEVICE_SAMPLINGS = {
    **{name: sampling for name, sampling in SAMPLINGS.items() if name not in _HOST_ONLY},
    "greedy": Sampling(),
    "tiny values": Sampling(temperature=1e-40, top_p=1e-40, typical_p=1e-40, min_p=1e-40),
    "huge temperature": Sampling(temperature=3e38),
    "every warper": Sampling(0, 0.9, 60, 0.95, typical_p=0.95, min_p=0.001, min_new_tokens=9),
}
"""Sampling parameters that rounds on the device support."""
