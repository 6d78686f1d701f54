/* Row kernels for any processor: plain C. */
#define KERNEL(name) clipc_##name##_f32_generic
#define KERNEL_ISA_NAME "generic"
#define MULADD(a, b, c) ((a) * (b) + (c))

#include "kernels/elementwise_body.h"

const clipc_elementwise_kernels *clipc_elementwise_generic(void)
{
    return &clipc_elementwise_table_f32_generic;
}
