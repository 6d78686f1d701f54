#include "kernels/gemm_kernels.h"

#include "core/cpu.h"

const clipc_gemm_kernels *clipc_gemm_kernels_selected(void)
{
    switch (clipc_isa_selected()) {
    case CLIPC_ISA_AVX2:
        return clipc_gemm_f32_6x16_avx2_kernels();
    case CLIPC_ISA_GENERIC:
    case CLIPC_ISA_AVX512: /* OpenBLAS has kernels with twice the width of those for AVX2 */
    case CLIPC_ISA_AVX512VNNI:
    case CLIPC_ISA_AVX512BF16:
        break;
    }
    return NULL;
}
