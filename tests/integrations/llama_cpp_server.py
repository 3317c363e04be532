"""llama.cpp's own server, from the wheel of `xllamacpp`, with the model of a file.

    python llama_cpp_server.py MODEL.gguf

prints where it listens and serves until it is killed.
"""

from __future__ import annotations

import sys
import time

import xllamacpp

if __name__ == "__main__":
    options = xllamacpp.CommonParams()
    options.model.path = sys.argv[1]
    options.port = 0
    options.n_ctx, options.n_parallel = 1024, 2
    options.cpuparams.n_threads = options.cpuparams_batch.n_threads = 1
    server = xllamacpp.Server(options)
    print(server.listening_address, flush=True)
    time.sleep(3600)
