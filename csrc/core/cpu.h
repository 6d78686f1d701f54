/* Which instruction sets this processor has, and which of them clipc uses. */
#ifndef CLIPC_CORE_CPU_H
#define CLIPC_CORE_CPU_H

#include "core/status.h"

/* Ordered: each level includes those before it. */
typedef enum {
    CLIPC_ISA_GENERIC = 0,
    CLIPC_ISA_AVX2,   /* AVX2 and FMA */
    CLIPC_ISA_AVX512, /* F, BW, CD, DQ, VL */
    CLIPC_ISA_AVX512VNNI,
    CLIPC_ISA_AVX512BF16
} clipc_isa;

/* The highest level that processor and operating system support. */
clipc_isa clipc_isa_detect(void);

/* Chooses the level that all kernels use: the detected one, capped by `cap` (the value of the
 * environment variable CLIPC_ISA; NULL or "" for no cap). An unknown or unsupported name is an error.
 * Called once, before any kernel runs. */
clipc_status clipc_isa_select(const char *cap, clipc_message *message);

clipc_isa clipc_isa_selected(void);
const char *clipc_isa_name(clipc_isa isa);

#endif
