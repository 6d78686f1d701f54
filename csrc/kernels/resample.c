#include "kernels/resample.h"

#include "core/cpu.h"

const clipc_resample_kernels *clipc_resample(void)
{
    if (clipc_isa_selected() >= CLIPC_ISA_AVX2) {
        return clipc_resample_avx2();
    }
    return clipc_resample_generic();
}
