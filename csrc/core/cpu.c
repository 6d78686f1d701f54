#include "core/cpu.h"

#include <stddef.h>
#include <string.h>

static const char *const isa_names[] = {"generic", "avx2", "avx512", "avx512vnni", "avx512bf16"};
#define ISA_COUNT (sizeof isa_names / sizeof isa_names[0])

static clipc_isa selected_isa = CLIPC_ISA_GENERIC;

clipc_isa clipc_isa_detect(void)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (!(__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))) {
        return CLIPC_ISA_GENERIC;
    }
    if (!(__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
          __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
          __builtin_cpu_supports("avx512vl"))) {
        return CLIPC_ISA_AVX2;
    }
    if (!__builtin_cpu_supports("avx512vnni")) {
        return CLIPC_ISA_AVX512;
    }
    if (!__builtin_cpu_supports("avx512bf16")) {
        return CLIPC_ISA_AVX512VNNI;
    }
    return CLIPC_ISA_AVX512BF16;
#else
    return CLIPC_ISA_GENERIC;
#endif
}

clipc_status clipc_isa_select(const char *cap, clipc_message *message)
{
    const clipc_isa detected = clipc_isa_detect();
    if (cap == NULL || cap[0] == '\0') {
        selected_isa = detected;
        return CLIPC_OK;
    }
    for (size_t i = 0; i < ISA_COUNT; i++) {
        if (strcmp(cap, isa_names[i]) != 0) {
            continue;
        }
        if ((clipc_isa)i > detected) {
            return clipc_fail(message, CLIPC_ERROR_VALUE, "CLIPC_ISA=%s: this processor supports at most %s",
                              cap, isa_names[detected]);
        }
        selected_isa = (clipc_isa)i;
        return CLIPC_OK;
    }
    return clipc_fail(message, CLIPC_ERROR_VALUE,
                      "CLIPC_ISA: expected generic, avx2, avx512, avx512vnni or avx512bf16, got %.64s", cap);
}

clipc_isa clipc_isa_selected(void)
{
    return selected_isa;
}

const char *clipc_isa_name(clipc_isa isa)
{
    return isa_names[isa];
}
