"""llama.cpp's server on loopback: `llama_cpp_server.py FILE ROWS TOKENS THREADS`.

Runs in an environment with `xllamacpp`. Serves until stdin ends, or until it is killed.
"""

import sys

import xllamacpp


def main() -> None:
    file, rows, tokens, threads = sys.argv[1:]
    params = xllamacpp.CommonParams()
    params.model.path = file
    params.n_parallel, params.n_ctx = int(rows), int(tokens)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(threads)
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.warmup = True
    server = xllamacpp.Server(params)
    print(f"listening on {server.listening_address}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
