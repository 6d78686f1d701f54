/* Single layers of the core, so that the tests can hold each against an oracle. Not a public interface. */
#include "python/binding.h"

PyMethodDef clipc_op_methods[] = {
    {NULL, NULL, 0, NULL},
};
