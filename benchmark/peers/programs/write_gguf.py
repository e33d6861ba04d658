"""Write a GGUF file in another precision: `write_gguf.py SOURCE TARGET float32|bfloat16|float16`.

Runs in an environment with `gguf`. Vectors stay float32, as llama.cpp wants them.
"""

import os
import sys

from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, quants

TYPES = {
    "float32": GGMLQuantizationType.F32,
    "bfloat16": GGMLQuantizationType.BF16,
    "float16": GGMLQuantizationType.F16,
}
FILE_TYPES = {"float32": 0, "float16": 1, "bfloat16": 32}
"""Values of `general.file_type`."""


def main() -> None:
    source, target, dtype = sys.argv[1:]
    reader = GGUFReader(source)
    writer = GGUFWriter(target + ".new", reader.fields["general.architecture"].contents())
    writer.add_file_type(FILE_TYPES[dtype])
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name not in (
            "general.architecture",
            "general.file_type",
            "general.quantization_version",
        ):
            kind = field.types[0]
            part = field.types[-1] if kind == GGUFValueType.ARRAY else None
            writer.add_key_value(name, field.contents(), kind, part)
    for tensor in reader.tensors:
        values = quants.dequantize(tensor.data, tensor.tensor_type)
        wanted = TYPES[dtype] if values.ndim > 1 else TYPES["float32"]
        writer.add_tensor(tensor.name, quants.quantize(values, wanted), raw_dtype=wanted)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    os.replace(target + ".new", target)


if __name__ == "__main__":
    main()
