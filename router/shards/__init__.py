"""The router's side of the sockets to the tensor-parallel ranks."""
