/* Images: bytes to pixels, pixels to the input of the image encoder. */
#include "python/binding.h"

PyMethodDef clipc_image_methods[] = {
    {NULL, NULL, 0, NULL},
};
