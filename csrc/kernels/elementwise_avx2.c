/* Row kernels for x86-64 with AVX2 and FMA. */
#include "kernels/elementwise.h"

#if defined(__x86_64__)

/* System headers first: their inline functions must not be compiled for AVX2. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#endif

#define KERNEL(name) clipc_##name##_f32_avx2
#define KERNEL_ISA_NAME "avx2"
#define MULADD(a, b, c) __builtin_fmaf((a), (b), (c))

#include "kernels/elementwise_body.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

const clipc_elementwise_kernels *clipc_elementwise_avx2(void)
{
    return &clipc_elementwise_table_f32_avx2;
}

#else

const clipc_elementwise_kernels *clipc_elementwise_avx2(void)
{
    return 0;
}

#endif
