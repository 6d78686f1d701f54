#!/bin/sh
# Usage: tools/test_sanitized.sh PYTHON FOLDER
# Builds clipc in FOLDER under AddressSanitizer and UndefinedBehaviorSanitizer and runs the tests there.
set -eu
python=$1
folder=$2

CLIPC_SANITIZE=address,undefined "$python" setup.py -q build --build-base "$folder" --build-lib "$folder/lib"

# The interpreter is not built with the sanitizer, so its library has to be loaded first. CPython does not free
# everything when it ends, so leaks are not looked for here. allocator_may_return_null: allocations that are
# too large must come back as MemoryError, as they do without the sanitizer.
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:abort_on_error=1
export UBSAN_OPTIONS=print_stacktrace=1:halt_on_error=1
LD_PRELOAD="$("${CC:-gcc}" -print-file-name=libasan.so) $("${CC:-gcc}" -print-file-name=libubsan.so)"
export LD_PRELOAD
# What is left out does not run clipc's C code (oracles, tokenizer, pictures, tables), runs it elsewhere
# as well (notebooks), or measures memory. Output is not captured:
# a sanitizer's report goes straight to standard error and ends the run.
PYTHONPATH="$folder/lib" exec "$(dirname "$python")/pytest" -p no:cacheprovider -q -s -m "not memory" \
    --ignore tests/test_oracles.py --ignore tests/test_explanation_oracles.py --ignore tests/test_tokenizer.py \
    --ignore tests/test_drawing.py --ignore tests/test_draw_boxes.py --ignore tests/test_detections.py \
    --ignore tests/test_annotations.py --ignore tests/test_average_precision.py --ignore tests/test_notebooks.py \
    --ignore tests/test_weights_archive.py --ignore tests/test_convert.py \
    --ignore tests/test_bias_report.py --ignore tests/test_bias_statistics.py --ignore tests/test_labelled_images.py \
    --ignore tests/test_download.py --ignore tests/test_zoo.py --ignore tests/test_weights_zoo.py \
    --ignore tests/test_cli_models.py --ignore tests/test_verify.py --ignore tests/test_jupyterlab.py
