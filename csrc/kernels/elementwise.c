#include "kernels/elementwise.h"

#include "core/cpu.h"

const clipc_elementwise_kernels *clipc_elementwise(void)
{
    if (clipc_isa_selected() >= CLIPC_ISA_AVX2) {
        return clipc_elementwise_avx2();
    }
    return clipc_elementwise_generic();
}
