/* The type clipc._core.Model. */
#include "python/binding.h"

int clipc_add_model_type(PyObject *module)
{
    (void)module;
    return 0;
}
