#!/bin/sh
# Compares ggml's encoders with and without fused multiply-adds: `contraction.sh LLAMA_CPP LIBGGML_BASE`. Needs gcc, an x86-64 processor with FMA, Python with numpy.
# The file of the encoders is compiled once more for such processors, into a library that takes all else from the given one.
set -e
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
base=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
gcc -O3 -DNDEBUG -march=x86-64-v3 -fPIC -shared -std=gnu11 -I"$1/ggml/include" -I"$1/ggml/src" -D_GNU_SOURCE "$1/ggml/src/ggml-quants.c" -o "$work/fused.so" \
    -Wl,-Bsymbolic "$base" -Wl,-rpath,"$(dirname "$base")" -lm
objdump -d "$work/fused.so" | grep -c vfmadd
${PYTHON:-python3} "$here/contraction.py" "$base" "$work/fused.so"
rm -r "$work"
